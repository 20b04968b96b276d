"""Whether the server can do its work: checks by name, each silent or raising what is wrong.

`/healthz` says that the process answers; `/readyz` runs these checks. A server that is not ready keeps what
it has, refuses what it cannot make durable, and is ready again by itself when the cause is gone.
"""

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fedfer.aggregator.blobs import file_sha256
from fedfer.model.errors import FedferError, StoreError

FRESH_SEC = 1.0  # answers within this time are one: asking often costs nothing
PROBE_BYTES = 4096
FREE_CHECKPOINTS = 4  # room for these before the disk counts as full: an upload, a candidate and some slack
MAX_KNOWN_FILES = 1000
Check = Callable[[], None]


@dataclass(frozen=True)
class Readiness:
    """What is wrong, by the name of the check; empty when nothing is."""

    problems: Mapping[str, str]

    @property
    def is_ready(self) -> bool:
        return not self.problems


class Health:
    """Runs the checks, at most once in FRESH_SEC. `clock` in seconds. May be used from any thread."""

    def __init__(self, checks: Mapping[str, Check], clock: Callable[[], float]) -> None:
        self._checks, self._clock = dict(checks), clock
        self._lock = threading.Lock()
        self._last: tuple[float, Readiness] | None = None

    def readiness(self) -> Readiness:
        """Blocks as long as the slowest check."""
        with self._lock:
            if self._last is None or self._clock() - self._last[0] >= FRESH_SEC:
                readiness = Readiness(dict(self._problems()))
                self._last = self._clock(), readiness  # who waited for slow checks takes their answer
            return self._last[1]

    def _problems(self) -> list[tuple[str, str]]:
        found = []
        for name, check in self._checks.items():
            try:
                check()
            except (FedferError, OSError) as error:
                found.append((name, str(error)))
        return found


def check_disk(directory: Path, temporary: Path, checkpoint_bytes: int) -> None:
    """Raises StoreError unless `directory` takes new files and has room for FREE_CHECKPOINTS checkpoints.

    `temporary` is a name within it that nobody uses.
    """
    try:
        free = free_bytes(directory)
        with temporary.open("xb", 0) as file:
            file.write(bytes(PROBE_BYTES))
            os.fsync(file.fileno())
    except OSError as error:
        raise StoreError(f"cannot write to {directory}: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)
    needed = FREE_CHECKPOINTS * checkpoint_bytes
    if free < needed:
        raise StoreError(f"{directory} has {free} bytes free; expected at least {needed}: make room")


def free_bytes(directory: Path) -> int:
    """Bytes that this process may still write there. Raises OSError."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


class FileCheck:
    """Whether files are what their names say. A file is read again only when it has changed."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[int, int, int]] = {}

    def check(self, path: Path, digest: str) -> None:
        """Raises StoreError unless the file is there and its sha256 is `digest`."""
        try:
            found = path.stat()
            state = (found.st_ino, found.st_size, found.st_mtime_ns)
            if self._known.get(path) == state:
                return
            actual = file_sha256(path)
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error.strerror}; restore it from a copy") from None
        if actual != digest:
            raise StoreError(f"{path} is damaged: its sha256 is {actual}; restore it from a copy")
        self._known = {**dict(list(self._known.items())[-MAX_KNOWN_FILES:]), path: state}
