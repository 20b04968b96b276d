import asyncio
import errno
import os
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from fedfer.aggregator import downloads
from fedfer.aggregator.downloads import PIECE_BYTES, byte_range, file_response
from fedfer.model.errors import RefusedError, StoreError


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("bytes=0-0", (0, 1)),
        ("bytes=2-5", (2, 6)),
        ("bytes=2-", (2, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-30", (0, 10)),
        ("bytes=9-99", (9, 10)),
        ("bytes=5-2", None),
        ("bytes=-", None),
        ("bytes=0-1,3-4", None),
        ("items=0-1", None),
        ("bytes=a-b", None),
    ],
)
def test_ranges_of_ten_bytes(header: str | None, expected: tuple[int, int] | None) -> None:
    assert byte_range(header, 10) == expected


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-20", "bytes=-0"])
def test_outside(header: str) -> None:
    with pytest.raises(RefusedError, match="of a file of 10 bytes") as caught:
        byte_range(header, 10)
    assert (caught.value.status, caught.value.code) == (416, "bad_range")


@given(first=st.integers(0, 50), last=st.integers(0, 50), size=st.integers(1, 40))
def test_a_range_is_what_slicing_gives(first: int, last: int, size: int) -> None:
    content = bytes(range(size))
    try:
        found = byte_range(f"bytes={first}-{last}", size)
    except RefusedError:
        assert first >= size
        return
    if found is None:
        assert last < first
    else:
        assert content[slice(*found)] == content[first : last + 1]
        assert found[0] < found[1] <= size


class Client:
    """What a server sees of one download: messages that it sends, until the client leaves."""

    def __init__(self, place: Path, max_messages: int = 100) -> None:
        self.file, self.max_messages = place.open("rb", buffering=0), max_messages
        self.sent: list[Message] = []
        self.counted: list[int] = []

    def get(self, **headers: str) -> bytes:
        """The body that arrives. Raises what the call does."""
        asyncio.run(self._get({name.replace("_", "-"): value for name, value in headers.items()}))
        return b"".join(message.get("body", b"") for message in self.sent)

    async def _get(self, headers: dict[str, str]) -> None:
        async def count(num_bytes: int) -> None:
            self.counted.append(num_bytes)

        answer = await file_response(self.file, "abc", headers, count)
        scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}}
        await answer(scope, self._receive, self._send)

    async def _send(self, message: Message) -> None:
        if len(self.sent) == self.max_messages:
            raise OSError("the client has left")
        self.sent.append(message)

    async def _receive(self) -> Message:
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    path = tmp_path / "abc"
    path.write_bytes(bytes(range(10)))
    return path


@pytest.mark.parametrize(
    ("headers", "status", "body", "counted"),
    [
        ({}, 200, bytes(range(10)), [10]),
        ({"range": "bytes=2-5"}, 206, bytes([2, 3, 4, 5]), [4]),
        ({"range": "bytes=2-5", "if_range": '"other"'}, 200, bytes(range(10)), [10]),
        ({"if_none_match": 'W/"abc"'}, 304, b"", []),
    ],
)
def test_a_file_that_is_deleted_meanwhile_is_sent_whole(
    place: Path, headers: dict[str, str], status: int, body: bytes, counted: list[int]
) -> None:
    client = Client(place)
    place.unlink()
    assert client.get(**headers) == body
    assert (client.sent[0]["status"], client.counted, client.file.closed) == (status, counted, True)


def test_a_file_is_closed_whatever_happens(place: Path) -> None:
    refused = Client(place)
    with pytest.raises(RefusedError):
        refused.get(range="bytes=10-")
    gone = [Client(place, max_messages=number) for number in (0, 1)]
    for client in gone:
        with pytest.raises(Exception, match=r"left|^$"):  # starlette says it in its own way
            client.get()
    assert all(client.file.closed for client in (refused, *gone))


def refuses(*_: object) -> int:
    raise BlockingIOError(errno.EAGAIN, "not in the cache")


@pytest.mark.parametrize("cached_only", ["as it is", "not in the cache", "not on this system"])
def test_a_large_file_wherever_it_is_read_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached_only: str
) -> None:
    if cached_only == "not in the cache":
        monkeypatch.setattr(os, "preadv", refuses, raising=False)
    elif cached_only == "not on this system":
        monkeypatch.setattr(downloads, "CACHED_ONLY", None)
    content = Random(0).randbytes(2 * PIECE_BYTES + 1)
    path = tmp_path / "large"
    path.write_bytes(content)
    client = Client(path)
    assert client.get(range=f"bytes=3-{len(content) - 2}") == content[3:-1]
    assert client.counted == [len(content) - 4]


def test_a_file_that_became_shorter(tmp_path: Path) -> None:
    path = tmp_path / "short"
    path.write_bytes(bytes(PIECE_BYTES + 1))

    class Shortening(Client):
        async def _send(self, message: Message) -> None:
            await super()._send(message)
            os.truncate(path, PIECE_BYTES)

    with pytest.raises(StoreError, match="abc is shorter than it was"):
        Shortening(path).get()
