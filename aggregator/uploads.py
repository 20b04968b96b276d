"""Receiving a checkpoint: from the network into an unfinished file, in pieces, hashed on the way.

Two pieces of a body at most are in memory, one that is written and one that comes in meanwhile; writing,
hashing and syncing happen in worker threads, so a slow upload holds up nobody.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import anyio
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request

from fedfer.aggregator.work import Upload
from fedfer.aggregator.write_back import WriteBack
from fedfer.model.errors import RefusedError, StoreError

PIECE_BYTES = 1 << 17  # or a little more: what the network gives at once is written as it came
CONTENT_TYPE = "application/octet-stream"


def check_headers(headers: Mapping[str, str], max_bytes: int) -> int:
    """The announced length of an upload. Raises RefusedError: wrong_content_type, length_required,
    bad_request, too_large."""
    content_type = headers.get("content-type", "")
    encoding = headers.get("content-encoding", "identity")
    if content_type.split(";")[0].strip().lower() != CONTENT_TYPE or encoding.strip().lower() != "identity":
        raise RefusedError(
            f"{content_type[:80]!r} in encoding {encoding[:80]!r}; expected {CONTENT_TYPE}, unencoded",
            code="wrong_content_type",
            status=415,
        )
    length = headers.get("content-length")
    if length is None or "transfer-encoding" in headers:
        raise RefusedError(
            "expected a Content-Length and no Transfer-Encoding", code="length_required", status=411
        )
    if not (length.isascii() and length.isdigit() and len(length) < 20):
        raise RefusedError(f"Content-Length is {length[:40]!r}; expected a number", code="bad_request")
    if int(length) > max_bytes:
        raise RefusedError(
            f"{length} bytes; a checkpoint of this model has at most {max_bytes}",
            code="too_large",
            status=413,
        )
    return int(length)


def check_no_body(headers: Mapping[str, str]) -> None:
    """Raises RefusedError (bad_request) for a request that hands in an upload and has a body besides."""
    if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
        raise RefusedError("`upload` names a body that came before; expected none here", code="bad_request")


def wanted_digest(headers: Mapping[str, str]) -> bytes | None:
    """The sha-256 in Content-Digest (RFC 9530), None without. Raises RefusedError (bad_digest)."""
    for member in headers.get("content-digest", "").split(","):
        algorithm, _, value = member.strip().partition("=")
        if algorithm.lower() != "sha-256":
            continue
        try:
            digest = base64.b64decode(value.strip(":"), validate=True)
            if len(digest) == hashlib.sha256().digest_size and value[0] == value[-1] == ":":
                return digest
        except binascii.Error:
            pass
        raise RefusedError("expected Content-Digest: sha-256=:<base64>:", code="bad_digest")
    return None


async def at_once() -> None:
    """Gives way to nobody."""


@dataclass(frozen=True)
class Patience:
    """How long a body may pause, and how slow it may be on the whole (bytes a second, 0 for any). Between two
    pieces `give_way` is waited for."""

    idle_sec: float
    min_bytes_per_sec: float
    give_way: Callable[[], Awaitable[None]] = at_once

    def total_sec(self, num_bytes: int) -> float:
        """The time in which so many bytes have to come."""
        return self.idle_sec + num_bytes / self.min_bytes_per_sec if self.min_bytes_per_sec else math.inf


@asynccontextmanager
async def received(request: Request, path: Path, max_bytes: int, patience: Patience) -> AsyncIterator[Upload]:
    """The request's body in the file at `path`, synced; the file is deleted at the end unless moved away.

    Raises RefusedError, StoreError.
    """
    announced = check_headers(request.headers, max_bytes)
    wanted = wanted_digest(request.headers)
    try:
        with await run_in_threadpool(path.open, "xb", 0) as file:
            sha256 = await receive(request, file, announced, patience)
        check_digest(sha256, wanted)
        yield Upload(path, sha256.hex(), announced)
    except OSError as error:
        raise StoreError(f"cannot write an upload: {error.strerror}") from None
    finally:
        await run_in_threadpool(path.unlink, missing_ok=True)


def check_digest(sha256: bytes, wanted: bytes | None) -> None:
    """Raises RefusedError (bad_digest) unless the bytes are what their sender says, if he does."""
    if wanted is not None and not hmac.compare_digest(sha256, wanted):
        raise RefusedError(
            f"the body's sha256 is {sha256.hex()}, not what its sender says", code="bad_digest"
        )


async def receive(request: Request, file: BinaryIO, announced: int, patience: Patience) -> bytes:
    """Appends the request's body, of `announced` bytes, to an open file, synced; returns its sha256.

    What came is in the file also when it is cancelled or raises RefusedError (truncated, timed_out).
    """
    writer, num_bytes, piece = _Writer(file), 0, bytearray()
    try:
        async for chunk in _chunks(request, patience, announced):
            num_bytes += len(chunk)
            if piece or len(chunk) < PIECE_BYTES:
                piece += chunk
            if piece and len(piece) < PIECE_BYTES:
                continue
            full, piece = piece or chunk, bytearray()  # before the wait: nothing is written twice
            await writer.write(full)
            await patience.give_way()
    finally:
        with anyio.CancelScope(shield=True):
            await writer.write(piece)
            await writer.settle()
    if num_bytes < announced:
        raise RefusedError(f"{num_bytes} bytes came; Content-Length says {announced}", code="truncated")
    await run_in_threadpool(os.fsync, file.fileno())
    return writer.digest.digest()


class _Writer:
    """Writes and hashes pieces one after the other, each in a worker thread, while the next one comes in.

    In the event loop's own threads: anyio's, which Starlette takes, cost half as much again for each piece.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.digest = file, hashlib.sha256()
        self._write_back = WriteBack(file.fileno())
        self._waiting = list[bytes | bytearray]()
        self._writing: asyncio.Future[None] | None = None

    async def write(self, piece: bytes | bytearray) -> None:
        """Returns once the piece before this one is written; this one will be, also if whoever waits here is
        cancelled, by the time that `settle` returns. Raises OSError, of the one before."""
        self._waiting.append(piece)
        await self._advance()

    async def settle(self) -> None:
        """Returns once all is written. Raises OSError, after which nothing more is."""
        while self._waiting or self._writing is not None:
            await self._advance()

    async def _advance(self) -> None:
        if self._writing is not None:
            await asyncio.wait([self._writing])  # which is not cancelled with whoever waits for it
            written, self._writing = self._writing, None
            if written.exception() is not None:
                self._waiting.clear()  # what follows a gap is worth nothing
            written.result()
        if self._waiting:
            piece = self._waiting.pop(0)
            self._writing = asyncio.get_running_loop().run_in_executor(None, self._write, piece)

    def _write(self, piece: bytes | bytearray) -> None:
        rest = memoryview(piece)
        while rest:
            rest = rest[self._file.write(rest) :]  # less than all of it on a disk that is nearly full
        self._write_back.note(len(piece))
        self.digest.update(piece)


async def _chunks(request: Request, patience: Patience, announced: int) -> AsyncIterator[bytes]:
    """The body as it comes. Raises RefusedError when it stops coming."""
    stream, clock = aiter(request.stream()), asyncio.get_running_loop().time
    ends_at = clock() + patience.total_sec(announced)
    while True:
        try:
            async with asyncio.timeout(min(patience.idle_sec, ends_at - clock())):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise _timed_out(patience, ends_at <= clock()) from None
        except ClientDisconnect:
            raise RefusedError("the connection ended before the body", code="truncated") from None
        yield chunk


def _timed_out(patience: Patience, is_over: bool) -> RefusedError:
    slow = f"the body came slower than {patience.min_bytes_per_sec:g} bytes a second"
    words = slow if is_over else f"no byte of the body came for {patience.idle_sec:g} s"
    return RefusedError(f"{words}; send it again, or go on with it", code="timed_out", status=408)
