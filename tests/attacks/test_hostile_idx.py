"""Files that are no MNIST, each with its refusal: lying lengths, endless, cut off, of another kind."""

import gzip
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mnist_files import TRAIN_IMAGES, TRAIN_LABELS, digits, idx_images, idx_labels, put, write_mnist

from fedfer.model.errors import DataError
from fedfer.model.idx import read_mnist


def images_saying(*sizes: int) -> bytes:
    """20 images under a header that says something else."""
    return struct.pack(f">4B{len(sizes)}I", 0, 0, 8, len(sizes), *sizes) + digits(20).tobytes()


GOOD = idx_images(digits(20))
HOSTILE_IMAGES = {
    "empty": (b"", "expected an idx file that begins with 00 00 08 03; found ''"),
    "cut in the header": (GOOD[:15], "expected an idx file that begins with"),
    "cut in an image": (GOOD[:-1], "expected 20 images, as the file says; it ends before"),
    "no images behind the header": (GOOD[:16], "it ends before"),
    "bytes behind the last image": (GOOD + b"\0", "there is more behind them"),
    "labels in place of images": (idx_labels([1] * 20), "found '00 00 08 01'"),
    "float32": (b"\0\0\x0d\x03" + GOOD[4:], "found '00 00 0d 03'"),
    "little-endian": (GOOD[3::-1] + GOOD[4:], "found '03 08 00 00'"),
    "a zip": (b"PK\x03\x04" + bytes(40), "found '50 4b 03 04'"),
    "four billion images": (images_saying(2**32 - 1, 28, 28), "expected sizes (1..1000000, 28, 28)"),
    "a million images": (images_saying(1_000_000, 28, 28), "expected a label for each of 1000000 images"),
    "no image": (images_saying(0, 28, 28), "the file says (0, 28, 28)"),
    "one image less than labels": (idx_images(digits(19)), "expected a label for each of 19 images"),
    "huge images": (images_saying(20, 2**31, 2**31), "expected sizes (1..1000000, 28, 28)"),
    "other images": (idx_images(np.zeros((20, 32, 32), np.uint8)), "the file says (20, 32, 32)"),
}
HOSTILE_LABELS = {
    "label 10": (idx_labels([0] * 19 + [10]), "expected labels 0..9; found 10"),
    "label 255": (idx_labels([255] * 20), "expected labels 0..9; found 255"),
    "cut off": (idx_labels([0] * 20)[:-1], "expected 20 labels, as the file says; it ends before"),
    "more behind": (idx_labels([0] * 20) + bytes(5), "there is more behind them"),
    "images in place of labels": (GOOD, "begins with 00 00 08 01; found '00 00 08 03'"),
    "more labels": (idx_labels([0] * 21), "expected a label for each of 20 images; the file says 21"),
}
CASES = [(TRAIN_IMAGES, case) for case in HOSTILE_IMAGES] + [(TRAIN_LABELS, case) for case in HOSTILE_LABELS]


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(("name", "case"), CASES)
def test_hostile_files_are_refused(tmp_path: Path, name: str, case: str, zipped: bool) -> None:
    content, words = (HOSTILE_IMAGES if name == TRAIN_IMAGES else HOSTILE_LABELS)[case]
    put(write_mnist(tmp_path, zipped=zipped), name, content, zipped=zipped)
    with pytest.raises(DataError) as caught:
        read_mnist(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / "train-"))
    assert words in str(caught.value)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda whole: whole[:-9],
    "cut early": lambda whole: whole[:12],
    "changed": lambda whole: whole[:30] + b"\0\0\0\0" + whole[34:],
    "not gzip": lambda whole: GOOD,
    "wrong sum": lambda whole: whole[:-8] + bytes(8),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_gzip(tmp_path: Path, case: str) -> None:
    path = write_mnist(tmp_path) / f"{TRAIN_IMAGES}.gz"
    path.write_bytes(DAMAGE[case](gzip.compress(GOOD)))
    with pytest.raises(DataError, match="is not a complete gzip file"):
        read_mnist(tmp_path)


def test_a_lying_header_costs_no_memory(tmp_path: Path) -> None:
    """Both files say a million, and hold a few bytes: 784 MB would be taken for what never comes."""
    put(tmp_path, TRAIN_IMAGES, struct.pack(">4B3I", 0, 0, 8, 3, 1_000_000, 28, 28) + bytes(1000))
    put(tmp_path, TRAIN_LABELS, struct.pack(">4BI", 0, 0, 8, 1, 1_000_000) + bytes(1000))
    tracemalloc.start()
    with pytest.raises(DataError, match="it ends before"):
        read_mnist(tmp_path)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 16e6


def test_an_endless_gzip_is_not_unpacked(tmp_path: Path) -> None:
    """30 MB of zeros behind 20 images, in 140 kB: one byte of them is enough to refuse."""
    put(write_mnist(tmp_path), TRAIN_IMAGES, GOOD + bytes(30_000_000))
    tracemalloc.start()
    with pytest.raises(DataError, match="there is more behind them"):
        read_mnist(tmp_path)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 16e6


@settings(max_examples=40, deadline=None)
@given(
    content=st.binary(max_size=64), start=st.sampled_from([b"", GOOD[:4], GOOD[:16]]), zipped=st.booleans()
)
def test_no_bytes_raise_anything_else(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, start: bytes, zipped: bool
) -> None:
    folder = tmp_path_factory.mktemp("bytes")
    put(folder, TRAIN_IMAGES, start + content, zipped=zipped)
    put(folder, TRAIN_LABELS, idx_labels([0] * 20))
    with pytest.raises(DataError):
        read_mnist(folder)
