"""MNIST's four files, made small: whole sets, and single files bent for tests."""

import gzip
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def idx_images(images: NDArray[np.uint8]) -> bytes:
    """images uint8 (n,28,28) as an idx file."""
    return struct.pack(">4B3I", 0, 0, 8, 3, *images.shape) + images.tobytes()


def idx_labels(labels: list[int]) -> bytes:
    return struct.pack(">4BI", 0, 0, 8, 1, len(labels)) + bytes(labels)


def digits(num_images: int, start: int = 0) -> NDArray[np.uint8]:
    """Image i is filled with start + i, but for its first row: 0, 1, 2, ..."""
    images = np.empty((num_images, 28, 28), np.uint8)
    images[:] = (start + np.arange(num_images))[:, None, None]
    images[:, 0] = np.arange(28)
    return images


def write_mnist(folder: Path, num_train: int = 20, num_test: int = 10, *, zipped: bool = True) -> Path:
    """Labels 0 .. 9, 0, ...; training images are filled with 0, 1, ..., test images with 100, 101, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        TRAIN_IMAGES: idx_images(digits(num_train)),
        TRAIN_LABELS: idx_labels([i % 10 for i in range(num_train)]),
        TEST_IMAGES: idx_images(digits(num_test, 100)),
        TEST_LABELS: idx_labels([i % 10 for i in range(num_test)]),
    }
    for name, content in files.items():
        put(folder, name, content, zipped=zipped)
    return folder


def put(folder: Path, name: str, content: bytes, *, zipped: bool = True) -> None:
    """Writes a file of the set, in place of an earlier one."""
    path = folder / (name + ".gz" if zipped else name)
    path.write_bytes(gzip.compress(content, 1) if zipped else content)
