"""Reading MNIST: its sets, runs of them, and names that mirrors give the files."""

from pathlib import Path

import numpy as np
import pytest
from mnist_files import TEST_LABELS, TRAIN_IMAGES, idx_images, idx_labels, put, write_mnist

from fedfer.model.errors import DataError, UsageError
from fedfer.model.idx import read_mnist
from fedfer.model.sources import load_images

REAL = Path(__file__).parents[1] / "../shared/data/mnist"


@pytest.mark.parametrize("zipped", [False, True])
def test_images_and_labels_as_the_files_say(tmp_path: Path, zipped: bool) -> None:
    data = read_mnist(write_mnist(tmp_path, zipped=zipped))
    assert data.images.dtype == data.labels.dtype == np.uint8
    assert data.images.shape == (20, 28, 28, 1)
    assert data.labels.tolist() == [*range(10), *range(10)]
    assert data.images[7, 0, :3, 0].tolist() == [0, 1, 2]  # row by row
    assert set(data.images[7, 1:].ravel().tolist()) == {7}


def test_usage_skip_and_take(tmp_path: Path) -> None:
    source = f"mnist:{write_mnist(tmp_path)}"
    assert load_images(source, usage="train", skip=3, take=2).images[:, 1, 0, 0].tolist() == [3, 4]
    test = load_images(source, usage="test", skip=8)
    assert test.images[:, 1, 0, 0].tolist() == [108, 109]
    assert test.labels.tolist() == [8, 9]
    with pytest.raises(UsageError, match="has the usages train and test; received Training"):
        load_images(source, usage="Training")
    with pytest.raises(DataError, match=r"t10k-images.*expected 3 image\(s\) after the first 8 of 10"):
        load_images(source, usage="test", skip=8, take=3)
    with pytest.raises(DataError, match=r"expected one or more image\(s\) after the first 20 of 20"):
        load_images(source, skip=20)


def test_names_with_a_dot_and_mixed_packing(tmp_path: Path) -> None:
    put(tmp_path, "train-images.idx3-ubyte", idx_images(np.ones((2, 28, 28), np.uint8)), zipped=False)
    put(tmp_path, "train-labels-idx1-ubyte", idx_labels([4, 2]), zipped=True)
    assert read_mnist(tmp_path).labels.tolist() == [4, 2]


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no train-images-idx3-ubyte\.gz nor train-images-idx3-ubyte;"):
        load_images(f"mnist:{tmp_path}")
    (write_mnist(tmp_path) / f"{TEST_LABELS}.gz").unlink()
    assert len(read_mnist(tmp_path)) == 20
    with pytest.raises(DataError, match="has no t10k-labels-idx1-ubyte"):
        read_mnist(tmp_path, usage="test")
    with pytest.raises(DataError, match="has no train-images"):
        read_mnist(tmp_path / f"{TRAIN_IMAGES}.gz")


@pytest.mark.skipif(not REAL.exists(), reason="MNIST is not here")
def test_the_real_sets() -> None:
    train, test = load_images(f"mnist:{REAL}"), load_images(f"mnist:{REAL}", usage="test")
    assert (train.images.shape, test.images.shape) == ((60_000, 28, 28, 1), (10_000, 28, 28, 1))
    assert np.bincount(train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert train.images.mean(dtype=np.float64) / 255 == pytest.approx(0.1307, abs=5e-5)  # as everybody knows
