"""Reading MNIST as Yann LeCun ships it: four idx files in one folder, each also gzipped (.gz).

    train-images-idx3-ubyte     0 0 8 3, then n, 28, 28 as big-endian uint32, then n*784 pixels
    train-labels-idx1-ubyte     0 0 8 1, then n, then n digits 0..9
    t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte     the same of the test set

LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning applied to document recognition".
Fashion-MNIST and KMNIST come in the same files. Some mirrors write `train-images.idx3-ubyte`; read too.
"""

import gzip
import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn, cast

import numpy as np

from fedfer.model.data import LabelledImages
from fedfer.model.errors import DataError, UsageError

IMAGE_SIZE = 28
NUM_DIGITS = 10
USAGES = {"train": "train", "test": "t10k"}  # the usage, and how its files begin
MAX_IMAGES = 1_000_000
_UINT8 = 8  # idx's code of the type
_READ_BYTES = 2**20


@dataclass(frozen=True)
class _Kind:
    """One of a set's two files: what an entry of it is."""

    name: str
    entry_shape: tuple[int, ...]

    @property
    def ending(self) -> str:
        return f"idx{1 + len(self.entry_shape)}-ubyte"

    @property
    def entry_bytes(self) -> int:
        return int(np.prod(self.entry_shape, dtype=int))


IMAGES = _Kind("images", (IMAGE_SIZE, IMAGE_SIZE))
DIGITS = _Kind("labels", ())


def read_mnist(
    folder: Path, *, usage: str | None = None, skip: int = 0, take: int | None = None
) -> LabelledImages:
    """Images uint8 (n,28,28,1) and labels uint8 (n,) 0..9 of the folder's `train` (default) or `test` set.

    `take` images after the first `skip` (None: all that follow). Raises UsageError for another usage,
    DataError, naming the file, for anything malformed and when fewer images are there than asked for.
    """
    if (usage or "train") not in USAGES:
        raise UsageError(f"MNIST has the usages {' and '.join(USAGES)}; received {usage}")
    begin = USAGES[usage or "train"]
    with _opened(folder, begin, IMAGES) as (path, file), _opened(folder, begin, DIGITS) as (beside, digits):
        count, num_digits = _count(path, file, IMAGES), _count(beside, digits, DIGITS)
        if count != num_digits:
            _fail(beside, f"expected a label for each of {count} images; the file says {num_digits}")
        wanted = max(0, count - skip) if take is None else take
        if not wanted or skip + wanted > count:
            _fail(path, f"expected {take or 'one or more'} image(s) after the first {skip} of {count}")
        pixels = _entries(path, file, IMAGES, skip, wanted, count)
        labels = np.frombuffer(_entries(beside, digits, DIGITS, skip, wanted, count), np.uint8)
    if labels.max() >= NUM_DIGITS:
        _fail(beside, f"expected labels 0..{NUM_DIGITS - 1}; found {labels.max()}")
    images = np.frombuffer(pixels, np.uint8).reshape(-1, *IMAGES.entry_shape, 1)
    return LabelledImages(images, labels)


@contextmanager
def _opened(folder: Path, begin: str, kind: _Kind) -> Iterator[tuple[Path, BinaryIO]]:
    """The file under the first of its names that is there. Raises DataError, also for what a read raises."""
    names = [
        f"{begin}-{kind.name}{mark}{kind.ending}{zipped}" for zipped in (".gz", "") for mark in ("-", ".")
    ]
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise DataError(f"{folder} has no {names[0]} nor {names[2]}; expected MNIST's four idx files in it")
    try:
        with _open(path) as file:
            yield path, file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is not a complete gzip file ({error}); download it again") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None


def _open(path: Path) -> BinaryIO:
    if path.suffix == ".gz":
        return cast(BinaryIO, io.BufferedReader(gzip.open(path), _READ_BYTES))
    return path.open("rb", _READ_BYTES)


def _count(path: Path, file: BinaryIO, kind: _Kind) -> int:
    """Reads the header: how many entries the file says it has."""
    num_dimensions = 1 + len(kind.entry_shape)
    header = file.read(4 + 4 * num_dimensions)
    magic = bytes((0, 0, _UINT8, num_dimensions))
    if not header.startswith(magic) or len(header) < 4 + 4 * num_dimensions:
        _fail(path, f"expected an idx file that begins with {magic.hex(' ')}; found {header[:4].hex(' ')!r}")
    count, *shape = struct.unpack(f">{num_dimensions}I", header[4:])
    if tuple(shape) != kind.entry_shape or not 1 <= count <= MAX_IMAGES:
        expected = (f"1..{MAX_IMAGES}", *kind.entry_shape)
        _fail(path, f"expected sizes ({', '.join(map(str, expected))}); the file says {(count, *shape)}")
    return int(count)


def _entries(path: Path, file: BinaryIO, kind: _Kind, skip: int, wanted: int, count: int) -> bytes:
    """The entries' bytes; behind the last entry of a file that is read to its end there must be nothing."""
    file.seek(skip * kind.entry_bytes, io.SEEK_CUR)
    data = bytearray()
    while missing := wanted * kind.entry_bytes - len(data):  # piece by piece: the header may have lied
        piece = file.read(min(missing, _READ_BYTES))
        if not piece:
            _fail(path, f"expected {count} {kind.name}, as the file says; it ends before")
        data += piece
    if skip + wanted == count and file.read(1):
        _fail(path, f"expected {count} {kind.name}, as the file says; there is more behind them")
    return bytes(data)


def _fail(path: Path, message: str) -> NoReturn:
    raise DataError(f"{path}: {message}")
