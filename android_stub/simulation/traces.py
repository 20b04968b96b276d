"""Recorded traces of devices: a CSV that says when each was idle, charging and on an unmetered network.

    device,start_sec,end_sec,idle,charging,unmetered,down_bytes_per_sec,up_bytes_per_sec
    a3f,0,5400,1,1,1,2500000,900000
    a3f,5400,90000,0,0,1,2500000,900000

Seconds from the start of the recording; the states are 0 or 1; the last two columns may be left out. Rows may
stand anywhere and a device's may leave gaps, but not overlap. The file is one period that repeats; its end is
that of the latest row. A device is there when all three states hold; one that never is there is left out.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

from fedfer.android_stub.simulation.availability import MAX_SEC, Availability, repeating
from fedfer.model.errors import DataError

STATES = ("idle", "charging", "unmetered")
SPEEDS = ("down_bytes_per_sec", "up_bytes_per_sec")
COLUMNS = ("device", "start_sec", "end_sec", *STATES)
MAX_FILE_BYTES = 2**27
MIN_ROW_SEC = 1e-3
MAX_ROWS = 1_000_000  # 400 MB while they are read
MAX_LINE_CHARS = 1000
MAX_NAME_CHARS = 64
MAX_BYTES_PER_SEC = 1e12


@dataclass(frozen=True)
class Trace:
    """One device: when it is there; how fast its network is then, on average over that time, if recorded."""

    device: str
    availability: Availability
    down_bytes_per_sec: float | None = None
    up_bytes_per_sec: float | None = None


@dataclass(frozen=True, slots=True)
class _Row:
    """A checked line; `speeds` in the order of SPEEDS."""

    line_number: int
    start_sec: float
    end_sec: float
    is_there: bool
    speeds: tuple[float, ...]


def read_traces(path: Path) -> tuple[Trace, ...]:
    """The devices in the order in which the file first names them.

    Raises DataError, naming file and line, for anything malformed, and when no device is ever there.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DataError(f"{path}: expected at most {MAX_FILE_BYTES} bytes; it is longer")
        with path.open(encoding="utf-8-sig", newline="") as file:
            by_device = _rows_by_device(path, file)
    except UnicodeDecodeError:
        raise DataError(f"{path}: expected a CSV in UTF-8; this is another encoding or no text") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    period_sec = max((row.end_sec for rows in by_device.values() for row in rows), default=0.0)
    traces = tuple(
        _trace(path, device, rows, period_sec)
        for device, rows in by_device.items()
        if any(row.is_there for row in rows)
    )
    if not traces:
        raise DataError(f"{path}: expected a device that is idle, charging and unmetered; found none")
    return traces


def _rows_by_device(path: Path, file: io.TextIOBase) -> dict[str, list[_Row]]:
    lines = _lines(path, file)
    names = [name.strip().lower() for name in next(lines, "").split(",")]
    if names not in ([*COLUMNS], [*COLUMNS, *SPEEDS]):
        _fail(path, 1, f"expected the columns {','.join(COLUMNS)}[,{','.join(SPEEDS)}]; found other ones")
    found: dict[str, list[_Row]] = {}
    for line_number, line in enumerate(lines, start=2):
        if not line.strip():
            continue
        if line_number > MAX_ROWS + 1:
            _fail(path, line_number, f"expected at most {MAX_ROWS} rows; found more")
        fields = [text.strip() for text in line.split(",")]
        if len(fields) != len(names):
            _fail(path, line_number, f"expected {len(names)} columns; found {len(fields)}")
        if not 1 <= len(fields[0]) <= MAX_NAME_CHARS:
            _fail(path, line_number, f"expected a device of 1..{MAX_NAME_CHARS} characters")
        found.setdefault(fields[0], []).append(_row(path, line_number, fields))
    return found


def _lines(path: Path, file: io.TextIOBase) -> Iterator[str]:
    """Lines, without holding more than one of them; each is bounded."""
    line_number = 0
    while line := file.readline(MAX_LINE_CHARS + 1):
        line_number += 1
        if len(line) > MAX_LINE_CHARS:
            _fail(path, line_number, f"expected a line of at most {MAX_LINE_CHARS} characters")
        yield line


def _row(path: Path, line_number: int, fields: list[str]) -> _Row:
    start_sec, end_sec = (_number(path, line_number, text, MAX_SEC) for text in fields[1:3])
    if end_sec - start_sec < MIN_ROW_SEC:
        _fail(path, line_number, f"expected an end after the start {start_sec:g}; found {end_sec:g}")
    for name, state in zip(STATES, fields[3:6], strict=True):
        if state not in ("0", "1"):
            _fail(path, line_number, f"expected {name} 0 or 1; found {state[:20]!r}")
    speeds = tuple(_number(path, line_number, text, MAX_BYTES_PER_SEC) for text in fields[6:])
    is_there = fields[3:6] == ["1"] * len(STATES)
    if is_there and speeds and min(speeds) <= 0:
        _fail(path, line_number, "expected speeds above 0 of a device on an unmetered network; found 0")
    return _Row(line_number, start_sec, end_sec, is_there, speeds)


def _number(path: Path, line_number: int, text: str, most: float) -> float:
    try:
        number = float(text)
    except ValueError:
        _fail(path, line_number, f"expected a number; found {text[:20]!r}")
    if not 0 <= number <= most:
        _fail(path, line_number, f"expected a number of 0 to {most:g}; found {text[:20]!r}")
    return number


def _trace(path: Path, device: str, rows: list[_Row], period_sec: float) -> Trace:
    rows = sorted(rows, key=lambda row: row.start_sec)
    for row, following in pairwise(rows):
        if following.start_sec < row.end_sec:
            _fail(path, following.line_number, f"this row overlaps the one in line {row.line_number}")
    there = [row for row in rows if row.is_there]
    lengths = [row.end_sec - row.start_sec for row in there]
    speeds = [
        sum(length * speed for length, speed in zip(lengths, column, strict=True)) / sum(lengths)
        for column in zip(*(row.speeds for row in there), strict=True)
    ]
    availability = repeating([(row.start_sec, row.end_sec) for row in there], period_sec)
    return Trace(device, availability, *speeds)


def _fail(path: Path, line_number: int, message: str) -> NoReturn:
    raise DataError(f"{path}:{line_number}: {message}")
