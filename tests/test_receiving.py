"""Writing an upload's body while it comes in: order, what is kept when it ends early, disks that fill up."""

import asyncio
import errno
import hashlib
import io
import threading
from collections.abc import AsyncIterator, Sequence
from random import Random
from tempfile import TemporaryFile
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfer.aggregator.uploads import PIECE_BYTES, Patience, receive
from fedfer.model.errors import RefusedError


class Body:
    """A request whose body comes in these chunks; then `then` happens."""

    def __init__(self, chunks: Sequence[bytes], then: Any = None) -> None:
        self.chunks, self.then = chunks, then

    async def stream(self) -> AsyncIterator[bytes]:
        for chunk in self.chunks:
            yield chunk
        if self.then is not None:
            await self.then()


class File(io.RawIOBase):
    """Takes at most so many bytes in one write, and has room for so many."""

    def __init__(self, most: int = 1 << 30, room: int = 1 << 30) -> None:
        self.content, self.most, self.room = bytearray(), most, room
        self.synced = TemporaryFile()  # noqa: SIM115  # a descriptor for those who need one
        self.may_write = threading.Event()
        self.may_write.set()

    def fileno(self) -> int:
        return self.synced.fileno()

    def close(self) -> None:
        self.synced.close()
        super().close()

    def write(self, piece: Any) -> int:
        self.may_write.wait(60)
        taken = min(len(piece), self.most, self.room - len(self.content))
        if not taken:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.content += piece[:taken]
        return taken


async def received(body: Body, file: Any, announced: int) -> bytes:
    return await receive(body, file, announced, Patience(60, 0))  # type: ignore[arg-type]


def in_chunks(sizes: list[int]) -> list[bytes]:
    return [Random(number).randbytes(size) for number, size in enumerate(sizes)]


@given(st.lists(st.sampled_from([0, 1, 1000, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1]), max_size=8))
def test_all_of_it_in_its_order(sizes: list[int]) -> None:
    chunks = in_chunks(sizes)
    whole = b"".join(chunks)
    file = File(most=PIECE_BYTES // 3)
    digest = asyncio.run(received(Body(chunks), file, len(whole)))
    assert (bytes(file.content), digest) == (whole, hashlib.sha256(whole).digest())


def test_what_came_is_kept_when_it_ends_early() -> None:
    chunks = in_chunks([PIECE_BYTES, 10, PIECE_BYTES])
    file = File()
    with pytest.raises(RefusedError, match="bytes came; Content-Length says"):
        asyncio.run(received(Body(chunks), file, 1 << 20))
    assert file.content == b"".join(chunks)


@pytest.mark.parametrize("num_chunks", [1, 2, 3])
def test_what_came_is_kept_when_it_is_cut_short_while_the_disk_is_slow(num_chunks: int) -> None:
    """A newer request takes over while pieces wait to be written: all of them are, and no later one twice."""
    chunks, file = in_chunks([PIECE_BYTES, PIECE_BYTES, PIECE_BYTES][:num_chunks]), File()
    file.may_write.clear()

    async def cut_short() -> None:
        with anyio.CancelScope() as scope:
            asyncio.get_running_loop().call_later(0.1, scope.cancel)
            asyncio.get_running_loop().call_later(0.2, file.may_write.set)
            await received(Body(chunks, then=lambda: asyncio.sleep(60)), file, 1 << 20)
        assert scope.cancelled_caught

    asyncio.run(cut_short())
    came = b"".join(chunks)
    assert file.content == came[: len(file.content)]
    assert len(file.content) >= min(num_chunks, 2) * PIECE_BYTES  # the third was not asked for yet


def test_nothing_follows_a_gap() -> None:
    file = File(room=PIECE_BYTES + 5)
    with pytest.raises(OSError, match="No space left"):
        asyncio.run(received(Body(in_chunks([PIECE_BYTES] * 4)), file, 4 * PIECE_BYTES))
    assert file.content == b"".join(in_chunks([PIECE_BYTES] * 2))[: PIECE_BYTES + 5]
