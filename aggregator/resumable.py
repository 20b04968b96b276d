"""Uploads that go on where they were cut off, over HTTP; each is named by the sha256 of the whole.

After the IETF's draft-ietf-httpbis-resumable-upload, with two things left out because the name is the
content's: nothing has to be created first, and no length has to be agreed on.

    whole      a PUT that says its sha256: what came stays when it is cut off
    offset     how many bytes there are
    append     the next bytes, from that offset on
    handed_in  all of it, checked against its name, for a PUT without a body
"""

import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from fedfer.aggregator.faults import reach
from fedfer.aggregator.partial_uploads import PartialUploads, checked_offset
from fedfer.aggregator.refusals import status_of
from fedfer.aggregator.turns import Turns
from fedfer.aggregator.uploads import Patience, check_digest, check_headers, receive
from fedfer.aggregator.work import Upload
from fedfer.model.errors import FedferError, RefusedError, StoreError

# Refusals after which the bytes that came are good to go on with.
CUT_OFF = ("truncated", "timed_out", "taken_over", "too_many_uploads")


class ResumableUploads:
    """Of all devices of one server. Methods raise RefusedError, StoreError."""

    def __init__(self, files: PartialUploads, turns: Turns) -> None:
        self._files, self._turns = files, turns

    def is_busy(self, device_id: str, sha256: str) -> bool:
        return self._turns.is_busy(device_id, sha256)

    def counted(self, device_id: str) -> AbstractContextManager[None]:
        """Counts an upload that is not to be gone on with. Raises RefusedError."""
        return self._turns.upload_of(device_id)

    async def offset(self, device_id: str, sha256: str) -> int:
        """How many bytes came; ends a request that is still bringing some, so that it stays true."""
        async with self._turns.newest(device_id, sha256):
            return await run_in_threadpool(self._files.offset, device_id, sha256)

    async def drop(self, device_id: str, sha256: str) -> None:
        """Gives up what came."""
        async with self._turns.newest(device_id, sha256):
            await run_in_threadpool(self._files.drop, device_id, sha256)

    async def drop_device(self, device_id: str) -> None:
        """Gives up what came from a device that is no longer one."""
        await run_in_threadpool(self._files.drop_device, device_id)

    async def append(
        self,
        request: Request,
        device_id: str,
        sha256: str,
        given_offset: str | None,
        max_bytes: int,
        patience: Patience,
    ) -> int:
        """Adds the body at an offset, which must be where the upload got; how many bytes there are now,
        synced."""
        announced = check_headers(request.headers, max_bytes)
        async with self._turns.newest(device_id, sha256) as turn:
            there = await run_in_threadpool(self._files.offset, device_id, sha256)
            check_headers(request.headers, max_bytes - checked_offset(given_offset, there))
            with _store_errors():
                path = await run_in_threadpool(self._files.prepare, device_id, sha256)
                with turn.interruptible(), await run_in_threadpool(path.open, "ab", 0) as file:
                    await receive(request, file, announced, patience)
            reach("piece_synced")
            return there + announced

    @asynccontextmanager
    async def whole(
        self, request: Request, device_id: str, wanted: bytes, max_bytes: int, patience: Patience
    ) -> AsyncIterator[Upload]:
        """The request's body, whose sha256 is to be `wanted`; if it is cut off, what came is kept."""
        announced, name = check_headers(request.headers, max_bytes), wanted.hex()
        async with self._turns.newest(device_id, name) as turn, self._settled(device_id, name):
            with _store_errors():
                path = await run_in_threadpool(self._files.prepare, device_id, name)
                with turn.interruptible(), await run_in_threadpool(path.open, "wb", 0) as file:
                    sha256 = await receive(request, file, announced, patience)
            check_digest(sha256, wanted)
            yield Upload(path, name, announced)

    @asynccontextmanager
    async def handed_in(self, device_id: str, sha256: str) -> AsyncIterator[Upload]:
        """What came in pieces, if it is all there."""
        async with self._turns.newest(device_id, sha256), self._settled(device_id, sha256):
            path = self._files.path(device_id, sha256)
            with _store_errors():
                digest, num_bytes = await run_in_threadpool(_digest, path)
            check_digest(digest, bytes.fromhex(sha256))
            reach("pieces_checked")
            yield Upload(path, sha256, num_bytes)

    @asynccontextmanager
    async def _settled(self, device_id: str, sha256: str) -> AsyncIterator[None]:
        """Gives up the file at the end unless it was moved away, or there is reason to go on with it."""
        try:
            yield
        except FedferError as error:
            is_cut = isinstance(error, RefusedError) and error.code in CUT_OFF
            if not is_cut and status_of(error) < 500:
                await run_in_threadpool(self._files.drop, device_id, sha256)
            raise
        await run_in_threadpool(self._files.drop, device_id, sha256)
        reach("pieces_dropped")


@contextmanager
def _store_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"cannot write an upload: {error.strerror}") from None


def _digest(path: Path) -> tuple[bytes, int]:
    """sha256 and length of a file. Raises RefusedError if it is not there."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest(), file.tell()
    except FileNotFoundError:
        raise RefusedError(
            "no byte of this upload is here; send it again", code="unknown_upload", status=404
        ) from None
