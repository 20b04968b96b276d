"""Fetching a file named by its sha256 into the cache: streamed, resumed by Range, checked, all or nothing."""

from io import FileIO
from pathlib import Path

import httpx

from fedfer.android_stub.backoff import Backoff
from fedfer.android_stub.cache import Cache, Kind
from fedfer.android_stub.connection import Connection
from fedfer.android_stub.fields import bad_reply
from fedfer.model.errors import RefusedError


def fetch(connection: Connection, cache: Cache, kind: Kind, digest: str, max_bytes: int) -> Path:
    """The file `digest` of /v1/{kind}, from the cache or the server.

    Raises RefusedError, also when what came is longer than `max_bytes` or has another sha256; UsageError
    when the cache cannot be written.
    """
    try:
        with cache.locked(kind):
            return cache.find(kind, digest) or _download(connection, cache, kind, digest, max_bytes)
    except OSError as error:
        raise cache.unusable(error) from None


def _download(connection: Connection, cache: Cache, kind: Kind, digest: str, max_bytes: int) -> Path:
    url_path = f"/v1/{kind}/{digest}"
    part = cache.part(kind, digest)
    for _ in range(2):  # a .part that an earlier process left may be bad: then once more, from byte 0
        connection.retry(
            f"GET {url_path}", lambda backoff: _resume(connection, url_path, part, max_bytes, backoff)
        )
        if (path := cache.commit(kind, digest)) is not None:
            return path
    raise bad_reply(f"the bytes of {url_path} have another sha256", httpx.codes.OK)


def _resume(connection: Connection, url_path: str, part: Path, max_bytes: int, backoff: Backoff) -> None:
    """One attempt: asks for what `part` lacks and appends it."""
    with FileIO(part, "ab") as file:
        start = file.tell()
        headers = {"Range": f"bytes={start}-"} if start else {}
        received_before = connection.received_bytes
        try:
            with connection.exchange("GET", url_path, headers=headers) as response:
                if start and not _continues(response, start):
                    file.seek(0)
                    file.truncate()
                _append(connection, response, file, max_bytes)
        except RefusedError as error:
            # A range that starts at the end: `part` was complete already, its sha256 will tell.
            if error.status != httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise
        finally:
            if connection.received_bytes > received_before:
                backoff.made_progress()


def _append(connection: Connection, response: httpx.Response, file: FileIO, max_bytes: int) -> None:
    for chunk in response.iter_raw():
        connection.received_bytes += len(chunk)
        if file.tell() + len(chunk) > max_bytes:
            file.seek(0)
            file.truncate()
            raise bad_reply(f"longer than the {max_bytes} bytes expected at most", response.status_code)
        file.write(chunk)


def _continues(response: httpx.Response, start: int) -> bool:
    """Whether the answer goes on at byte `start`; a server may also ignore Range and send everything."""
    if response.status_code != httpx.codes.PARTIAL_CONTENT:
        return False
    if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        raise bad_reply(f"not the part from byte {start} that was asked for", response.status_code)
    return True
