"""Receiving a checkpoint: from the network into an unfinished file, in pieces, hashed on the way.

At most PIECE_BYTES of a body are in memory; writing, hashing and syncing happen in worker threads, so a
slow upload holds up nobody.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request

from fedfer.aggregator.blobs import sync_file
from fedfer.aggregator.runs import Upload
from fedfer.model.errors import RefusedError, StoreError

PIECE_BYTES = 1 << 18  # 16 devices at a time: 1 << 20 is no faster and takes 70 MB more
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


def wanted_digest(headers: Mapping[str, str]) -> bytes | None:
    """The sha-256 in Content-Digest (RFC 9530), None without. Raises RefusedError (bad_digest)."""
    for member in headers.get("content-digest", "").split(","):
        algorithm, _, value = member.strip().partition("=")
        if algorithm.lower() != "sha-256":
            continue
        try:
            if len(value) > 2 and value[0] == value[-1] == ":":
                return base64.b64decode(value[1:-1], validate=True)
        except binascii.Error:
            pass
        raise RefusedError("expected Content-Digest: sha-256=:<base64>:", code="bad_digest")
    return None


@asynccontextmanager
async def received(request: Request, path: Path, max_bytes: int, idle_sec: float) -> AsyncIterator[Upload]:
    """The request's body in the file at `path`, synced; the file is deleted at the end unless moved away.

    Raises RefusedError, StoreError.
    """
    announced = check_headers(request.headers, max_bytes)
    digest = wanted_digest(request.headers)
    try:
        upload = await _receive(request, path, announced, idle_sec)
        if digest is not None and not hmac.compare_digest(bytes.fromhex(upload.sha256), digest):
            raise RefusedError(
                f"the body's sha256 is {upload.sha256}, not what Content-Digest says", code="bad_digest"
            )
        yield upload
    except OSError as error:
        raise StoreError(f"cannot write an upload: {error.strerror}") from None
    finally:
        await run_in_threadpool(path.unlink, missing_ok=True)


async def _receive(request: Request, path: Path, announced: int, idle_sec: float) -> Upload:
    digest, num_bytes = hashlib.sha256(), 0
    with await run_in_threadpool(path.open, "xb", 0) as file:
        async for piece in _pieces(request, idle_sec):
            num_bytes += len(piece)
            if num_bytes > announced:
                raise RefusedError("more bytes than Content-Length says", code="too_large", status=413)
            await run_in_threadpool(_write, file, digest, piece)
    if num_bytes < announced:
        raise _truncated(num_bytes, announced)
    await run_in_threadpool(sync_file, path)
    return Upload(path, digest.hexdigest(), num_bytes)


async def _pieces(request: Request, idle_sec: float) -> AsyncIterator[bytes]:
    """The body in pieces of about PIECE_BYTES. Raises RefusedError when it stops coming."""
    piece = bytearray()
    stream = aiter(request.stream())
    while True:
        try:
            async with asyncio.timeout(idle_sec):
                piece += await anext(stream)
        except StopAsyncIteration:
            break
        except TimeoutError:
            raise RefusedError(
                f"no byte of the body came for {idle_sec} s; send it again", code="timed_out", status=408
            ) from None
        except ClientDisconnect:
            raise RefusedError("the connection ended before the body", code="truncated") from None
        if len(piece) >= PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)


def _write(file: BinaryIO, digest: "hashlib._Hash", piece: bytes) -> None:
    file.write(piece)
    digest.update(piece)


def _truncated(num_bytes: int, announced: int) -> RefusedError:
    return RefusedError(f"{num_bytes} bytes came; Content-Length says {announced}", code="truncated")
