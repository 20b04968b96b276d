"""Uploads that were cut off, as files to go on with: one for each device and sha256 of the whole.

    <root>/<device>/<sha256>     the bytes that came so far, in order, from the first

A file's length is how far its upload got, so a server that was killed knows it again. What is in it counts
for nothing before its sha256 is right. There are few of them for each device and in all, and none is old:
the one that was added to longest ago goes first. Methods block; they may be called from any thread, but for
one upload at a time only (`turns`).
"""

import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fedfer.aggregator.blobs import sync_directory
from fedfer.model.errors import RefusedError

MAX_OFFSET_DIGITS = 18


@dataclass(frozen=True)
class PartialLimits:
    """How many unfinished uploads are kept, and how long after the last byte came."""

    per_device: int = 2
    in_all: int = 256
    max_age_sec: float = 24 * 3600.0


class PartialUploads:
    """Errors of the file system are raised as they are (OSError). `clock`: seconds since the epoch, as the
    file system's. `is_busy`, of a device and a sha256: whether bytes are coming just now; such an upload is
    never given up to make room, so there may be more of them than `limits` says."""

    def __init__(
        self,
        root: Path,
        limits: PartialLimits,
        clock: Callable[[], float],
        is_busy: Callable[[str, str], bool] = lambda device_id, sha256: False,
    ) -> None:
        self._root, self._limits, self._clock, self._is_busy = root, limits, clock, is_busy
        self._lock = threading.Lock()
        root.mkdir(exist_ok=True)
        self.drop_old()

    def path(self, device_id: str, sha256: str) -> Path:
        return self._root / device_id / sha256

    def offset(self, device_id: str, sha256: str) -> int:
        """How many bytes there are; 0 if none came yet, or they were given up."""
        try:
            return self.path(device_id, sha256).stat().st_size
        except FileNotFoundError:
            return 0

    def prepare(self, device_id: str, sha256: str) -> Path:
        """The file to write to, made if it is new; makes room for it by giving up others."""
        path = self.path(device_id, sha256)
        self.drop_old()
        with self._lock:
            if not path.parent.is_dir():
                path.parent.mkdir()
                sync_directory(self._root)
            path.touch()
            self._drop_oldest([p for p in path.parent.iterdir() if p != path], self._limits.per_device - 1)
            self._drop_oldest([p for p in self._root.glob("*/*") if p != path], self._limits.in_all - 1)
        return path

    def drop(self, device_id: str, sha256: str) -> None:
        path = self.path(device_id, sha256)
        with self._lock, suppress(OSError):
            path.unlink(missing_ok=True)
            path.parent.rmdir()  # unless there are others in it

    def drop_device(self, device_id: str) -> None:
        """Gives up all of a device's."""
        with self._lock:
            shutil.rmtree(self._root / device_id, ignore_errors=True)

    def drop_old(self) -> None:
        """Gives up those that nothing was added to for too long, and directories of devices without any."""
        oldest_sec = self._clock() - self._limits.max_age_sec
        with self._lock:
            for directory in self._root.iterdir():
                for path in directory.iterdir():
                    if _modified_sec(path) < oldest_sec and not self._is_busy(directory.name, path.name):
                        path.unlink(missing_ok=True)
                if not any(directory.iterdir()):
                    directory.rmdir()

    def _drop_oldest(self, paths: list[Path], keep: int) -> None:
        idle = [path for path in paths if not self._is_busy(path.parent.name, path.name)]
        for path in sorted(idle, key=_modified_sec)[: max(0, len(paths) - keep)]:
            path.unlink(missing_ok=True)


def checked_offset(given: str | None, there: int) -> int:
    """The offset that a request goes on from, which must be where the upload got.

    Raises RefusedError: bad_request without one; wrong_offset, which tells the right one, for any other.
    """
    if given is None:
        raise RefusedError(
            "expected a header Upload-Offset: bytes of the upload that came before", code="bad_request"
        )
    is_number = given.isascii() and given.isdigit() and len(given) <= MAX_OFFSET_DIGITS
    if is_number and int(given) == there:
        return there
    raise RefusedError(
        f"Upload-Offset is {given[:40]!a}; {there} bytes came so far: go on from there",
        code="wrong_offset",
        status=409,
        headers={"Upload-Offset": str(there)},
    )


def _modified_sec(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # handed in, or given up, at this moment
        return 0.0
