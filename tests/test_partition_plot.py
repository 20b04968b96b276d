"""The picture of who holds what, and the command that draws it."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import prepared
import pytest
from mnist_files import write_mnist

from fedfer.cli.partition_plot import LABEL_COLORS, describe_partition, draw_partition, sorted_devices
from fedfer.model.partition import partition_counts


def test_counts_by_hand() -> None:
    labels = np.array([0, 2, 2, 1, 0, 2], np.uint8)
    counts = partition_counts(labels, [np.array([0, 1, 2]), np.array([5])], 4)
    assert counts.tolist() == [[1, 0, 2, 0], [0, 0, 1, 0]]
    assert counts.dtype == np.int64
    assert describe_partition(counts) == "2 devices with 1 to 3 images of 1 to 2 labels each"
    assert describe_partition(counts[:1]) == "1 devices with 3 images of 2 labels each"


def test_devices_are_sorted_by_their_commonest_label_and_its_share() -> None:
    counts = np.array([[1, 3], [5, 5], [0, 9], [2, 1], [4, 0]])
    assert sorted_devices(counts).tolist() == [4, 3, 1, 2, 0]


def pixels(
    counts: np.ndarray[tuple[int, int], np.dtype[np.int64]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    import matplotlib.image

    target = io.BytesIO()
    draw_partition(target, counts, [f"label {i}" for i in range(counts.shape[1])], "Who holds what")
    target.seek(0)
    image: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = matplotlib.image.imread(target, format="png")
    return image


def area(image: np.ndarray[tuple[int, ...], np.dtype[np.float32]], color: str) -> int:
    wanted = np.array([int(color[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return int((np.abs(image[:, :, :3] - wanted).max(axis=2) < 0.01).sum())


def test_bars_are_as_large_as_the_counts() -> None:
    """Label 0 three times as often as label 1: three times its area; the keys of the legend are left out."""
    image = pixels(np.array([[30, 10, 20], [30, 10, 20]]))[:, :1200]
    first, second, third = (area(image, color) for color in LABEL_COLORS[:3])
    assert first / second == pytest.approx(3, rel=0.05)
    assert third / second == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize("shape", [(1, 1), (100, 10), (101, 7), (5, 11), (3000, 62)])
def test_any_fleet_can_be_drawn(shape: tuple[int, int]) -> None:
    image = pixels(np.random.default_rng(0).integers(0, 50, shape))
    assert image.shape[:2] == (690, 1500)
    assert len(np.unique(image.reshape(-1, image.shape[2])[::7], axis=0)) > 5  # not blank


def fedfer(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fedfer.cli.main", "devices", *arguments]
    return prepared.run(command)


def test_the_command_draws_and_exits(tmp_path: Path) -> None:
    picture = tmp_path / "partition.png"
    options = ["--data", f"mnist:{write_mnist(tmp_path)}", "--count", "5", "--partition", "shards"]
    done = fedfer(*options, "--plot-partition", str(picture))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"wrote {picture}: 5 devices with 4 images of 2 labels each\n"
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_without_a_server_nothing_else_can_be_done(tmp_path: Path) -> None:
    options = ["--data", f"mnist:{write_mnist(tmp_path)}", "--count", "5"]
    done = fedfer(*options)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("fedfer devices: expected --server URL")
    unwritable = fedfer(*options, "--plot-partition", str(tmp_path))
    assert unwritable.returncode == 1
    assert unwritable.stderr.endswith("Is a directory; choose another --plot-partition\n")
