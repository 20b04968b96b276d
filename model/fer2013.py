"""Reading FER2013 as Kaggle ships it: CSV with one 48x48 grey face a row, also gzipped.

    train.csv             emotion,pixels
    fer2013.csv           emotion,pixels,Usage
    icml_face_data.csv    emotion, Usage, pixels       (with those spaces)

`emotion` is 0..6, `pixels` 2,304 numbers 0..255 row by row with spaces between them, `Usage` Training,
PublicTest or PrivateTest. Goodfellow et al. 2013 (arXiv 1307.0414). The images may not be redistributed.
"""

import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn, cast

import numpy as np

from fedfer.model.data import LabelledImages
from fedfer.model.errors import DataError
from fedfer.model.labels import IMAGE_SHAPE, IMAGE_SIZE, NUM_LABELS

NUM_PIXELS = IMAGE_SIZE * IMAGE_SIZE
MAX_LINE_BYTES = 32 * 1024  # a row of 2,304 three-digit numbers takes 9 KiB
MAX_OWNER_BYTES = 64
MAX_FILE_BYTES = 2**30  # decompressed; all of FER2013 is 301 MB
_READ_BYTES = 2**20
_PIXEL_BYTES = b"0123456789 "


@dataclass(frozen=True)
class _Columns:
    """Where the columns stand in a row of `count` fields."""

    count: int
    emotion: int
    pixels: int
    usage: int | None
    owner: int | None


@dataclass(frozen=True)
class _Row:
    """One row, split and not yet checked."""

    line_number: int
    emotion: bytes
    pixels: bytes
    owner: bytes = b""


def read_fer2013(
    path: Path,
    *,
    usage: str | None = None,
    skip: int = 0,
    take: int | None = None,
    owner_column: str | None = None,
) -> LabelledImages:
    """Images uint8 (n,48,48,1) and labels uint8 (n,) of a FER2013-like CSV (`.csv`, or gzipped `.gz`).

    `usage` keeps the rows with this Usage; of the kept ones the first `skip` are passed over unread, and
    `take` read (None: all that follow). `owner_column` names one more column, of up to 64 bytes of UTF-8 in a
    row: whose each image is. Raises DataError, naming file and line, for anything malformed,
    and when fewer rows are there than asked for.
    """
    pixels, labels, owners = bytearray(), bytearray(), list[str]()
    try:
        with _open(path) as file:
            for place, row in enumerate(_rows(path, file, usage, owner_column)):
                if take is not None and len(labels) == take:
                    break
                if place >= skip:
                    labels.append(_label(path, row))
                    pixels += _pixels(path, row)
                    if owner_column is not None:
                        owners.append(_owner(path, row, owner_column))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is not a complete gzip file ({error}); download it again") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    if len(labels) < (1 if take is None else take):
        kept = f" with Usage {usage}" if usage else ""
        wanted = "at least one" if take is None else take
        raise DataError(
            f"{path}: expected {wanted} image(s){kept} after the first {skip}; found {len(labels)}"
        )
    images = np.frombuffer(pixels, np.uint8).reshape(-1, *IMAGE_SHAPE)
    whose = None if owner_column is None else np.array(owners)
    return LabelledImages(images, np.frombuffer(labels, np.uint8), whose)


def _open(path: Path) -> BinaryIO:
    if path.suffix == ".gz":
        return cast(BinaryIO, io.BufferedReader(gzip.open(path), _READ_BYTES))
    return path.open("rb", _READ_BYTES)


def _rows(path: Path, file: BinaryIO, usage: str | None, owner_column: str | None) -> Iterator[_Row]:
    """Rows with this Usage, split into fields; blank lines are passed over."""
    lines = _lines(path, file)
    columns = _columns(path, next(lines, (1, b""))[1], owner_column)
    if usage is not None and columns.usage is None:
        _fail(path, 1, f"expected a column Usage to choose {usage} by; there is none")
    for line_number, line in lines:
        fields = line.split(b",")
        if len(fields) != columns.count:
            if not line.strip():
                continue
            _fail(path, line_number, f"expected {columns.count} columns; found {len(fields)}")
        if usage is None or columns.usage is None or _unquoted(fields[columns.usage]) == usage.encode():
            owner = b"" if columns.owner is None else _unquoted(fields[columns.owner])
            yield _Row(
                line_number, _unquoted(fields[columns.emotion]), _unquoted(fields[columns.pixels]), owner
            )


def _lines(path: Path, file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Line numbers, from 1, and lines; bounded, since a small gzip can hold an endless one."""
    read_bytes = line_number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        line_number += 1
        read_bytes += len(line)
        if len(line) > MAX_LINE_BYTES:
            _fail(path, line_number, f"expected a line of at most {MAX_LINE_BYTES} bytes; this one is longer")
        if read_bytes > MAX_FILE_BYTES:
            _fail(
                path, line_number, f"expected at most {MAX_FILE_BYTES} bytes after decompression; found more"
            )
        yield line_number, line


def _columns(path: Path, header: bytes, owner_column: str | None) -> _Columns:
    try:
        names = [name.strip(' "\r\n').lower() for name in header.decode("utf-8-sig").split(",")]
    except UnicodeDecodeError:
        _fail(path, 1, "expected a CSV in UTF-8; this is another encoding or no text")
    owner = [] if owner_column is None else [owner_column.strip().lower()]
    if missing := [name for name in ("emotion", "pixels", *owner) if names.count(name) != 1]:
        shown = [name[:20] for name in names[:8]]
        _fail(path, 1, f"expected one column {' and one column '.join(missing)}; found {shown}")
    usage = names.index("usage") if "usage" in names else None
    whose = names.index(owner[0]) if owner else None
    return _Columns(len(names), names.index("emotion"), names.index("pixels"), usage, whose)


def _unquoted(field: bytes) -> bytes:
    return field.strip(b' "\r\n')


def _label(path: Path, row: _Row) -> int:
    if not row.emotion.isdigit() or len(row.emotion) > 3 or int(row.emotion) >= NUM_LABELS:
        _fail(path, row.line_number, f"expected an emotion 0..{NUM_LABELS - 1}; found {_shown(row.emotion)}")
    return int(row.emotion)


def _owner(path: Path, row: _Row, column: str) -> str:
    if not 1 <= len(row.owner) <= MAX_OWNER_BYTES:
        _fail(
            path, row.line_number, f"expected 1..{MAX_OWNER_BYTES} bytes in {column}; found {len(row.owner)}"
        )
    try:
        return row.owner.decode()
    except UnicodeDecodeError:
        _fail(path, row.line_number, f"expected UTF-8 in {column}; found {_shown(row.owner)}")


def _pixels(path: Path, row: _Row) -> bytes:
    if rest := row.pixels.translate(None, _PIXEL_BYTES):
        _fail(path, row.line_number, f"expected pixels as whole numbers; found {_shown(rest)} among them")
    # Text mode, which numpy keeps (only fromstring of binary data is deprecated): 5 times faster than int().
    values = np.fromstring(row.pixels.decode(), np.int64, sep=" ")
    if len(values) != NUM_PIXELS:
        _fail(path, row.line_number, f"expected {NUM_PIXELS} pixels; found {len(values)}")
    if values.max() > 255:
        _fail(path, row.line_number, f"expected pixels 0..255; found {values.max()}")
    return values.astype(np.uint8).tobytes()


def _shown(field: bytes) -> str:
    return repr(field[:20].decode(errors="replace"))


def _fail(path: Path, line_number: int, message: str) -> NoReturn:
    raise DataError(f"{path}:{line_number}: {message}")
