"""Sending a file that never changes: ETag, caching for ever, one byte range, and a count of what was sent.

HTTP semantics after RFC 9110, sections 13 (conditions) and 14 (ranges). A Range header that cannot be
understood, or asks for several ranges, is ignored, as the RFC allows.
"""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import ExitStack
from typing import BinaryIO

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from fedfer.model.errors import RefusedError, StoreError

PIECE_BYTES = 1 << 17  # 64 devices at a time: 1 << 18 is little faster and takes more memory
# Linux: read what the page cache has, and nothing that a disk would have to be waited for. Others: None.
CACHED_ONLY: int | None = getattr(os, "RWF_NOWAIT", None)
CACHE_CONTROL = "public, max-age=31536000, immutable"
Count = Callable[[int], Awaitable[None]]


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """First byte and the one after the last of a `Range` header; None for the whole file.

    Raises RefusedError (416) for a range outside the file.
    """
    match = re.fullmatch(r"\s*bytes\s*=\s*([0-9]{0,18})-([0-9]{0,18})\s*", header or "")
    if match is None or match.groups() == ("", ""):
        return None
    first_text, last_text = match.groups()
    if not first_text:
        first, end = max(0, size - int(last_text)), size
    else:
        first, end = int(first_text), min(size, int(last_text) + 1) if last_text else size
        if last_text and int(last_text) < first:
            return None
    if first >= end:
        raise RefusedError(f"range {header} of a file of {size} bytes", code="bad_range", status=416)
    return first, end


async def file_response(file: BinaryIO, name: str, headers: Mapping[str, str], count: Count) -> Response:
    """The answer to a GET for the open file called `name` (its sha256), which is closed whatever happens.
    Raises RefusedError, StoreError."""
    with ExitStack() as stack:
        stack.callback(file.close)
        etag = f'"{name}"'
        fixed = {"ETag": etag, "Cache-Control": CACHE_CONTROL, "Accept-Ranges": "bytes"}
        if _lists_etag(headers.get("if-none-match", ""), etag):
            return Response(status_code=304, headers=fixed)
        size = os.fstat(file.fileno()).st_size
        wants_range = headers.get("if-range", etag) == etag
        part = byte_range(headers.get("range"), size) if wants_range else None
        first, end = part or (0, size)
        fixed["Content-Length"] = str(end - first)
        if part:
            fixed["Content-Range"] = f"bytes {first}-{end - 1}/{size}"
        answer = FileResponse(
            _stream(file, name, first, end, count),
            status_code=206 if part else 200,
            media_type="application/octet-stream",
            headers=fixed,
        )
        answer.file = file
        stack.pop_all()
        return answer


class FileResponse(StreamingResponse):
    """Closes the file it sends, also when the client left before the first byte."""

    file: BinaryIO

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.file:
            await super().__call__(scope, receive, send)


async def _stream(
    file: BinaryIO, name: str, first: int, end: int, count: Count
) -> AsyncIterator[bytes | memoryview]:
    """The bytes first..end of the file; counts those that were taken, also when the client leaves."""
    sent = 0
    try:
        while sent < end - first:
            piece = await _read(file.fileno(), min(PIECE_BYTES, end - first - sent), first + sent)
            if not piece:
                raise StoreError(f"{name} is shorter than it was")
            yield piece
            sent += len(piece)
    finally:
        await count(sent)


async def _read(file: int, num_bytes: int, first: int) -> bytes | memoryview:
    """At most so many bytes from `first` on. A version that devices fetch is in the page cache: read at once,
    it costs a quarter of the processor time that a worker thread for each piece does."""
    if CACHED_ONLY is not None:
        piece = bytearray(num_bytes)
        try:
            num_read = os.preadv(file, [piece], first, CACHED_ONLY)
        except OSError:  # not in the cache, or a file system without this: what is wrong, the thread tells
            pass
        else:
            await asyncio.sleep(0)  # a fast client's download leaves everybody else their turn
            return memoryview(piece)[:num_read]
    return await run_in_threadpool(os.pread, file, num_bytes, first)


def _lists_etag(header: str, etag: str) -> bool:
    listed = [part.strip().removeprefix("W/") for part in header.split(",")]
    return etag in listed or listed == ["*"]
