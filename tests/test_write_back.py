"""Files go to the disk while they are written: each megabyte once, in order, none forgotten or dropped."""

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import BinaryIO

import pytest

from fedfer.aggregator.blobs import Blobs
from fedfer.aggregator.write_back import STEP_BYTES, WriteBack

Begun = list[tuple[int, int]]


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> Begun:
    """Offsets and lengths that the kernel was told to write."""
    told, advise = Begun(), os.posix_fadvise

    def note(descriptor: int, offset: int, length: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_DONTNEED
        told.append((offset, length))
        advise(descriptor, offset, length, advice)

    monkeypatch.setattr(os, "posix_fadvise", note)
    return told


@pytest.fixture
def file(tmp_path: Path) -> Iterator[BinaryIO]:
    with (tmp_path / "file").open("wb", 0) as file:
        yield file


def test_a_step_at_a_time(file: BinaryIO, begun: Begun) -> None:
    write_back = WriteBack(file.fileno())
    for _ in range(10):
        write_back.note(file.write(bytes(STEP_BYTES // 4 + 1)))
    assert begun == [(0, STEP_BYTES + 4), (STEP_BYTES + 4, STEP_BYTES + 4)]


def test_from_where_an_upload_goes_on(file: BinaryIO, begun: Begun) -> None:
    file.write(bytes(1000))
    write_back = WriteBack(file.fileno())
    write_back.note(file.write(bytes(2 * STEP_BYTES)))
    assert begun == [(1000, 2 * STEP_BYTES)]


def test_without_the_call(file: BinaryIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fadvise")
    WriteBack(file.fileno()).note(file.write(bytes(STEP_BYTES)))


def test_a_version_is_whole(tmp_path: Path, begun: Begun) -> None:
    blobs = Blobs(tmp_path)
    pieces = [Random(number).randbytes(size) for number, size in enumerate([10, 3 * STEP_BYTES + 7, 0, 5])]
    place = blobs.version_path("a" * 64)
    blobs.write(place, *(memoryview(piece) for piece in pieces))
    assert place.read_bytes() == b"".join(pieces)
    assert [offset for offset, _ in begun] == [0, STEP_BYTES + 10, 2 * STEP_BYTES + 10]
    blobs.close()
