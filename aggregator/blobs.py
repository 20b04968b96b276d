"""Models, versions and updates as files named by the sha256 of their bytes, under one data directory.

    lock                              held by the one server that uses the directory
    models/<sha256>.tflite            the served model
    versions/<sha256>.safetensors     global checkpoints
    states/<sha256>                   what strategies remember with a version
    updates/<run>/<round>/<sha256>.safetensors
    tmp/                              unfinished files; emptied at start

A file appears under its name only whole: written in tmp/, synced, renamed, its directory synced.
"""

import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Collection
from pathlib import Path

from fedfer.aggregator.faults import reach
from fedfer.aggregator.write_back import STEP_BYTES, WriteBack
from fedfer.model.errors import StoreError


class Blobs:
    """The files of one data directory. Errors of the file system are raised as they are (OSError)."""

    def __init__(self, root: Path) -> None:
        """Takes the directory for this process. Raises StoreError if another server has it, OSError."""
        self.root = root
        _make_directory(root)
        self._lock = _lock(root)
        self._temporary = root / "tmp"
        shutil.rmtree(self._temporary, ignore_errors=True)
        self._updates = root / "updates"
        for directory in (
            self._temporary,
            root / "models",
            root / "versions",
            root / "states",
            self._updates,
        ):
            directory.mkdir(exist_ok=True)
        sync_directory(root)

    def close(self) -> None:
        """Lets another server have the directory."""
        os.close(self._lock)

    def model_path(self, sha256: str) -> Path:
        return self.root / "models" / f"{sha256}.tflite"

    def version_path(self, sha256: str) -> Path:
        return self.root / "versions" / f"{sha256}.safetensors"

    def state_path(self, sha256: str) -> Path:
        return self.root / "states" / sha256

    def update_path(self, run: str, round_number: int, sha256: str) -> Path:
        return self._updates / run / str(round_number) / f"{sha256}.safetensors"

    def present(self, place: Path) -> Path:
        """`place`, with its file in it if there is one."""
        return place

    def checked(self, place: Path) -> Path:
        """`place`, its file read and found to be what its name says. Raises StoreError, OSError."""
        path = self.present(place)
        actual = file_sha256(path)
        if actual != path.stem:
            raise StoreError(f"{path} is damaged: its sha256 is {actual}; restore it from a copy")
        return path

    def send_missing(self, deleted: Collection[str]) -> None:
        """At start: puts what only the directory has into the bucket, if there is one, but for what has
        these sha256. Raises StoreError, OSError."""

    def check_bucket(self) -> None:
        """Raises StoreError unless the bucket, if the files are in one too, takes a file."""

    def temporary_path(self) -> Path:
        """A name for a new unfinished file."""
        return self._temporary / secrets.token_hex(16)

    def write(self, place: Path, *pieces: bytes | memoryview) -> None:
        """Makes these bytes, one piece after the other, durable at `place`."""
        temporary = self.temporary_path()
        with temporary.open("wb", 0) as file:
            write_back = WriteBack(file.fileno())
            for piece in pieces:
                rest = memoryview(piece).cast("B")
                while rest:
                    num_bytes = file.write(rest[:STEP_BYTES])
                    write_back.note(num_bytes)
                    rest = rest[num_bytes:]
        sync_file(temporary)
        self.keep(temporary, place)

    def send_ahead(self, temporary: Path, place: Path) -> None:
        """What of `keep` takes long and may be done before it is certain that the file is kept."""

    def keep(self, temporary: Path, place: Path) -> None:
        """Gives an unfinished file, whose bytes are synced, its name; durable on return."""
        if not place.parent.is_dir() and self._updates in place.parents:
            for directory in (place.parent.parent, place.parent):  # of the run, of the round
                directory.mkdir(exist_ok=True)
                sync_directory(directory.parent)
        reach("file_unfinished")
        temporary.replace(place)
        reach("file_named")
        sync_directory(place.parent)

    def drop(self, place: Path) -> None:
        """Deletes a file; who is reading it reads on."""
        place.unlink(missing_ok=True)

    def drop_updates(self, run: str, round_number: int) -> None:
        """Deletes a round's updates; what cannot be deleted stays and harms nothing."""
        shutil.rmtree(self._updates / run / str(round_number), ignore_errors=True)

    def drop_updates_before(self, run: str, round_number: int) -> None:
        """Deletes the updates of rounds before this one, which a server that was killed may have left."""
        for directory in (self._updates / run).glob("*"):
            if directory.name.isdigit() and int(directory.name) < round_number:
                self.drop_updates(run, int(directory.name))


def _make_directory(path: Path) -> None:
    """The directory and those above it, durable: no receipt may be lost with the name of its directory."""
    missing = [place for place in (path, *path.parents) if not place.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for place in missing:
        sync_directory(place.parent)


def file_sha256(path: Path) -> str:
    """sha256 of the file's bytes, in hex; in memory a piece at a time. Raises OSError."""
    with path.open("rb", 0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_file(path: Path) -> None:
    """Returns when the file's bytes are on the disk."""
    _sync(path, os.O_RDWR)


def sync_directory(path: Path) -> None:
    """Returns when the directory's names are on the disk."""
    _sync(path, os.O_RDONLY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(root: Path) -> int:
    descriptor = os.open(root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise StoreError(f"another server is using {root}; stop it or take another directory") from None
    return descriptor
