"""Files named by their content, shared by all processes of a fleet: models, checkpoints, updates to send.

    models/<sha256>      a fetched .tflite            .part  what has come of it so far
    weights/<sha256>     a fetched checkpoint         .lock  held (flock) by the process that fetches
    updates/<device>     what a device is about to upload
    devices/...          what devices keep for themselves (android_stub.device_files)

A file appears under its name only when it is complete and its sha256 is right; a process that is killed
leaves a .part, which the next one goes on with. The newest few checkpoints are kept.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from fedfer.model.errors import UsageError

Kind = Literal["models", "weights"]
KEPT: dict[Kind, int] = {"models": 2, "weights": 3}
CHUNK_BYTES = 2**20


class Cache:
    """A directory of files by content."""

    def __init__(self, directory: Path) -> None:
        """Makes the directory where it is missing. Raises UsageError."""
        self.directory = directory
        self._verified: set[Path] = set()
        try:
            for kind in (*KEPT, "updates"):
                (directory / kind).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self.unusable(error) from None

    @contextmanager
    def locked(self, kind: Kind) -> Iterator[None]:
        """One process of the fleet at a time fetches files of this kind; the others then find them."""
        with (self.directory / kind / ".lock").open("wb") as file:
            fcntl.flock(
                file, fcntl.LOCK_EX
            )  # the system lets go of it when the process ends, however it ends
            yield

    def find(self, kind: Kind, digest: str) -> Path | None:
        """The complete file, or None. Its sha256 is checked once per process, as disks and people err."""
        path = self.directory / kind / digest
        if path not in self._verified:
            if not path.exists():
                return None
            if sha256_of(path) != digest:
                path.unlink()
                return None
            self._verified.add(path)
        try:
            os.utime(path)  # marks it as used, for `_prune`
        except FileNotFoundError:
            self._verified.discard(path)
            return None
        return path

    def part(self, kind: Kind, digest: str) -> Path:
        """Where the bytes of an unfinished download gather. Only for the holder of the lock."""
        return self.directory / kind / f"{digest}.part"

    def commit(self, kind: Kind, digest: str) -> Path | None:
        """Turns a complete .part into the file; None, and the .part is gone, if its sha256 is another."""
        part = self.part(kind, digest)
        if sha256_of(part) != digest:
            part.unlink()
            return None
        path = part.rename(self.directory / kind / digest)
        self._verified.add(path)
        self._prune(kind)
        return path

    def write_update(self, device_name: str, data: bytes) -> Path:
        """Puts a trained checkpoint where it stays until it is uploaded. Raises UsageError."""
        path = self.directory / "updates" / f"{device_name}.{os.getpid()}"
        try:
            path.write_bytes(data)
        except OSError as error:
            raise self.unusable(error) from None
        return path

    def unusable(self, error: OSError) -> UsageError:
        """The error for a directory that cannot be read or written."""
        why = error.strerror or str(error)
        return UsageError(f"cannot use {self.directory} as a cache: {why}; name another with --cache-dir")

    def _prune(self, kind: Kind) -> None:
        files = [path for path in (self.directory / kind).iterdir() if len(path.name) == 64]
        files.sort(key=lambda path: path.stat().st_mtime_ns)
        for path in files[: -KEPT[kind]]:
            self._verified.discard(path)
            path.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """sha256 of a file in hex, in the memory of one chunk."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
