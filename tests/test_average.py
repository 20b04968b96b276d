import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from average_helpers import SMALL, constant_weights, random_weights, write_checkpoint
from hypothesis import given
from hypothesis import strategies as st

from fedfer.aggregator import average
from fedfer.aggregator.average import weighted_mean
from fedfer.aggregator.update_reader import WeightedFile, in_order
from fedfer.export.checkpoint import Weights, checkpoint_bytes
from fedfer.export.contract import Contract, TrainingSettings, WeightSpec
from fedfer.model.errors import CheckpointError, UsageError


def update(directory: Path, weights: Weights, num_examples: int, device_id: str = "d") -> WeightedFile:
    path = write_checkpoint(directory, weights)
    return WeightedFile(path.name, num_examples, device_id, path)


def plain_mean(updates: list[tuple[Weights, int]]) -> Weights:
    total = sum(n for _, n in updates)
    return {
        name: (np.sum([w[name].astype(np.float64) * n for w, n in updates], axis=0) / total).astype(
            np.float32
        )
        for name in updates[0][0]
    }


def test_weighted_by_examples(tmp_path: Path) -> None:
    """(1 * 10 + 3 * 2) / 4 = 4"""
    mean = weighted_mean(
        [update(tmp_path, constant_weights(10), 1), update(tmp_path, constant_weights(2), 3)], SMALL
    )
    assert {name: np.unique(tensor).tolist() for name, tensor in mean.items()} == {
        "dense/kernel": [4.0],
        "norm/variance": [4.0],
        "scale": [4.0],
    }
    assert {name: tensor.shape for name, tensor in mean.items()} == {w.name: w.shape for w in SMALL.weights}
    assert {tensor.dtype for tensor in mean.values()} == {np.dtype(np.float32)}


def test_sums_are_kept_in_float64(tmp_path: Path) -> None:
    """1e8 + 1 has no float32; the mean of 1e8, 1, -1e8 is 1/3 only if no sum is rounded to float32."""
    numbers = (1e8, 1.0, -1e8)
    weights = [{**constant_weights(1), "scale": np.float32(x).reshape(())} for x in numbers]
    mean = weighted_mean([update(tmp_path, w, 1) for w in weights], SMALL)
    assert mean["scale"] == np.float32(1 / 3)


@given(
    counts=st.lists(st.integers(1, 1_000_000), min_size=1, max_size=6),
    order=st.randoms(use_true_random=False),
)
def test_arrival_order_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], order: object
) -> None:
    directory = tmp_path_factory.mktemp("updates")
    updates = [update(directory, random_weights(i), n, f"device-{i}") for i, n in enumerate(counts)]
    canonical = sorted(
        ((u.sha256, random_weights(i), u.num_examples) for i, u in enumerate(updates)), key=str
    )
    expected = checkpoint_bytes(plain_mean([(w, n) for _, w, n in canonical]), SMALL)
    order.shuffle(updates)  # type: ignore[attr-defined]
    assert checkpoint_bytes(weighted_mean(updates, SMALL), SMALL) == expected


@pytest.mark.parametrize(("block", "files"), [(1, 1), (2, 3), (4, 2), (1 << 15, 64)])
def test_blocks_and_groups_do_not_change_a_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, files: int
) -> None:
    updates = [update(tmp_path, random_weights(i), i + 1) for i in range(5)]
    canonical = in_order(updates)
    expected = plain_mean([(random_weights(updates.index(u)), u.num_examples) for u in canonical])
    monkeypatch.setattr(average, "BLOCK_ELEMENTS", block)
    monkeypatch.setattr(average, "FILES_AT_ONCE", files)
    assert checkpoint_bytes(weighted_mean(updates, SMALL), SMALL) == checkpoint_bytes(expected, SMALL)


def test_tensor_larger_than_a_block(tmp_path: Path) -> None:
    shape = (3, average.BLOCK_ELEMENTS // 2 + 1)
    contract = Contract(
        "long", (1, 1, 1), ("a",), (WeightSpec("w", shape, "float32", "trainable"),), TrainingSettings(), ""
    )
    tensors = [random_weights(seed, contract) for seed in range(2)]
    paths = [write_checkpoint(tmp_path, tensor, contract) for tensor in tensors]
    updates = [WeightedFile(path.name, 1, "d", path) for path in paths]
    np.testing.assert_array_equal(
        weighted_mean(updates, contract)["w"],
        ((tensors[0]["w"].astype(np.float64) + tensors[1]["w"]) / 2).astype(np.float32),
    )


def test_same_update_from_two_devices_counts_twice(tmp_path: Path) -> None:
    """(6 + 6 + 0) / 3 = 4"""
    updates = [
        update(tmp_path, constant_weights(6), 1, "a"),
        update(tmp_path, constant_weights(6), 1, "b"),
        update(tmp_path, constant_weights(0), 1, "c"),
    ]
    assert weighted_mean(updates, SMALL)["scale"] == 4


def test_memory_does_not_grow_with_updates(tmp_path: Path) -> None:
    """2,000,000 parameters: 8 MB a checkpoint, 16 MB of sums, whether 2 or 100 updates are averaged."""
    contract = Contract(
        "wide",
        (1, 1, 1),
        ("a",),
        (WeightSpec("w", (2_000_000,), "float32", "trainable"),),
        TrainingSettings(),
        "",
    )
    path = write_checkpoint(tmp_path, constant_weights(1, contract), contract)

    def peak_bytes(num_updates: int) -> int:
        tracemalloc.start()
        weighted_mean([WeightedFile(path.name, 1, str(i), path) for i in range(num_updates)], contract)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    few, many = peak_bytes(2), peak_bytes(100)
    assert few > 16_000_000
    assert many < few + 500_000


def test_refuses_no_examples(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least one update"):
        weighted_mean([], SMALL)
    with pytest.raises(UsageError, match="num_examples of 1 or more"):
        weighted_mean([update(tmp_path, constant_weights(1), 0)], SMALL)


def test_missing_and_shortened_files(tmp_path: Path) -> None:
    lost = update(tmp_path, constant_weights(1), 1)
    lost.path.unlink()
    with pytest.raises(CheckpointError, match="cannot read"):
        weighted_mean([lost], SMALL)
    short = update(tmp_path, constant_weights(2), 1)
    short.path.write_bytes(short.path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="promises"):
        weighted_mean([short], SMALL)
