"""What devices keep in their fleet's cache directory from one process to the next: token and progress.

    devices/<server>/   lock             held (flock) by the processes of the fleet whose devices these are
                        NAME.token       that the server gave the device, readable by its owner only
                        NAME.progress    of its training under way (android_stub.progress)
                        NAME.update      that it is about to upload

<server> are the first digits of the sha256 of its address: a token goes to nobody but the server that gave
it. Two fleets at once cannot be the same devices: the second one starts as new ones and keeps nothing.
"""

import fcntl
import hashlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedfer.android_stub.cache import Cache
from fedfer.model.errors import UsageError

MAX_TOKEN_BYTES = 256
ENDING_SEC = 5.0  # processes of a fleet that was killed are gone by then
PAUSE_SEC = 0.05
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{1,256}")


class DeviceFiles:
    """The files of one device, in a directory that its fleet holds (see `held`). Raises UsageError where they
    cannot be read or written."""

    def __init__(self, directory: Path, name: str) -> None:
        self._token, self._update = directory / f"{name}.token", directory / f"{name}.update"
        self.progress = directory / f"{name}.progress"

    def token(self) -> str | None:
        """The token kept; None if there is none that could be one."""
        if not self._token.exists():
            return None
        with self._usable(), self._token.open("rb") as file:
            text = file.read(MAX_TOKEN_BYTES + 1).decode("ascii", "replace")
        return text if _TOKEN.fullmatch(text) else None

    def keep_token(self, token: str) -> None:
        """All of it or the one before, whenever the process is killed."""
        unfinished = self._token.with_suffix(".part")
        with self._usable():
            unfinished.unlink(missing_ok=True)
            descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(token.encode("ascii"))
            unfinished.rename(self._token)

    def write_update(self, data: bytes) -> Path:
        """Puts a trained checkpoint where it stays until it is uploaded."""
        with self._usable():
            self._update.write_bytes(data)
        return self._update

    def forget_progress(self) -> None:
        """The training under way is over, or nothing would come of it."""
        with self._usable():
            self.progress.unlink(missing_ok=True)

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            why, directory = error.strerror or str(error), self._token.parent
            raise UsageError(
                f"cannot use {directory} for what phones keep: {why}; name another with --cache-dir"
            ) from None


def devices_directory(cache: Cache, server_url: str) -> Path:
    """Where the devices of one server keep their files; made where it is missing. Raises UsageError."""
    server = hashlib.sha256(server_url.rstrip("/").encode()).hexdigest()[:16]
    directory = cache.directory / "devices" / server
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise cache.unusable(error) from None
    return directory


@contextmanager
def held(directory: Path) -> Iterator[bool]:
    """Whether these devices are this fleet's until the end of the block, or those of another that runs."""
    with _lock(directory) as descriptor:
        give_up_at = time.monotonic() + ENDING_SEC
        while not _locks(descriptor, fcntl.LOCK_EX):
            if time.monotonic() > give_up_at:
                yield False
                return
            time.sleep(PAUSE_SEC)
        yield _locks(descriptor, fcntl.LOCK_SH)


@contextmanager
def sharing(directory: Path) -> Iterator[None]:
    """For the processes of a fleet that holds the devices: they stay its own as long as one of them lives."""
    with _lock(directory) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield


@contextmanager
def _lock(directory: Path) -> Iterator[int]:
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _locks(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
