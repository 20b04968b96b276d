import json
import os
import struct
import tracemalloc
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from average_helpers import SMALL, constant_weights, random_weights, write_checkpoint
from hypothesis import given
from hypothesis import strategies as st

from fedfer.aggregator import average, update_reader
from fedfer.aggregator.average import weighted_mean
from fedfer.aggregator.update_reader import WeightedFile
from fedfer.export.checkpoint import METADATA_KEY, Weights, checkpoint_bytes, digest_of, load_checkpoint
from fedfer.export.contract import Contract, TrainingSettings, WeightSpec
from fedfer.model.errors import CheckpointError, UsageError


def update(directory: Path, weights: Weights, num_examples: int, device_id: str = "d") -> WeightedFile:
    path = write_checkpoint(directory, weights)
    return WeightedFile(path.name, num_examples, device_id, path)


def plain_mean(updates: list[tuple[str, Weights, int]]) -> Weights:
    """The definition in `average`, in plain numpy on whole tensors; (name, weights, examples) each."""
    ordered = sorted(updates, key=lambda each: (each[2], each[0]))
    totals = {name: np.zeros(tensor.shape) for name, tensor in ordered[0][1].items()}
    for count in sorted({n for _, _, n in ordered}):
        for name, total in totals.items():
            same = [w[name].astype(np.float64) for _, w, n in ordered if n == count]
            totals[name] = total + count * np.sum(same, axis=0)
    examples = sum(n for _, _, n in updates)
    return {name: np.asarray(total / examples, np.float32) for name, total in totals.items()}


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
    counts=st.lists(st.integers(1, 3) | st.integers(1, 1_000_000), min_size=1, max_size=8),
    order=st.randoms(use_true_random=False),
)
def test_arrival_order_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], order: object
) -> None:
    directory = tmp_path_factory.mktemp("updates")
    updates = [update(directory, random_weights(i), n, f"device-{i}") for i, n in enumerate(counts)]
    expected = plain_mean([(u.sha256, random_weights(i), u.num_examples) for i, u in enumerate(updates)])
    order.shuffle(updates)  # type: ignore[attr-defined]
    assert checkpoint_bytes(weighted_mean(updates, SMALL), SMALL) == checkpoint_bytes(expected, SMALL)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("block", "files"), [(1, 1), (2, 3), (4, 2), (1 << 15, 64)])
def test_blocks_and_threads_do_not_change_a_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, files: int, threads: int
) -> None:
    updates = [update(tmp_path, random_weights(i), i // 2 + 1) for i in range(5)]
    sent = [(u.sha256, random_weights(i), u.num_examples) for i, u in enumerate(updates)]
    monkeypatch.setattr(average, "BLOCK_ELEMENTS", block)
    monkeypatch.setattr(update_reader, "MAX_OPEN_UPDATES", files)
    monkeypatch.setattr(average, "MAX_THREADS", threads)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    expected = checkpoint_bytes(plain_mean(sent), SMALL)
    assert checkpoint_bytes(weighted_mean(updates, SMALL), SMALL) == expected


def test_tensors_may_lie_otherwise_in_each_file(tmp_path: Path) -> None:
    """An update of a client that writes the last tensor first, between two that write them in order."""
    sent = [random_weights(seed) for seed in range(3)]
    updates = [update(tmp_path, weights, 2) for weights in sent]
    backwards = backwards_bytes(sent[1])
    other = tmp_path / digest_of(backwards)
    other.write_bytes(backwards)
    assert load_checkpoint(other, SMALL).keys() == sent[1].keys()
    mixed = [updates[0], WeightedFile(other.name, 2, "d", other), updates[2]]
    expected = plain_mean([(u.sha256, w, 2) for u, w in zip(mixed, sent, strict=True)])
    assert checkpoint_bytes(weighted_mean(mixed, SMALL), SMALL) == checkpoint_bytes(expected, SMALL)
    alone = weighted_mean([mixed[1]], SMALL)
    assert checkpoint_bytes(alone, SMALL) == checkpoint_bytes(sent[1], SMALL)


def backwards_bytes(weights: Weights) -> bytes:
    """A valid checkpoint of SMALL with its tensors in the opposite order."""
    header: dict[str, object] = {"__metadata__": {METADATA_KEY: SMALL.digest}}
    data = b""
    for weight in reversed(SMALL.weights):
        tensor, begin = weights[weight.name].tobytes(), len(data)
        data += tensor
        offsets = [begin, len(data)]
        header[weight.name] = {"dtype": "F32", "shape": list(weight.shape), "data_offsets": offsets}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_rounded_once_at_the_end(tmp_path: Path) -> None:
    """Against exact fractions: of 200 numbers each mean is the float32 nearest to the true one."""
    contract = Contract(
        "exact", (1, 1, 1), ("a",), (WeightSpec("w", (200,), "float32", "trainable"),), TrainingSettings(), ""
    )
    sent = [random_weights(seed, contract) for seed in range(7)]
    paths = [write_checkpoint(tmp_path, weights, contract) for weights in sent]
    counts = [3, 1, 4, 1, 5, 9, 2]
    updates = [WeightedFile(p.name, n, "d", p) for p, n in zip(paths, counts, strict=True)]
    mean = weighted_mean(updates, contract)["w"]
    for i, found in enumerate(mean.tolist()):
        terms = [n * Fraction(float(w["w"][i])) for w, n in zip(sent, counts, strict=True)]
        true = sum(terms, Fraction(0)) / sum(counts)
        neighbours = [float(np.nextafter(np.float32(found), np.float32(to))) for to in (-9, 9)]
        assert all(abs(Fraction(found) - true) <= abs(Fraction(other) - true) for other in neighbours)


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


@pytest.mark.parametrize("num_threads", [1, 2, average.MAX_THREADS])
def test_memory_does_not_grow_with_updates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_threads: int
) -> None:
    """2,000,000 parameters: 8 MB of result and a thread's few blocks, whether 2 or 200 updates are averaged.

    A thread that starts when the others have taken all blocks needs no blocks of its own, or while they are
    still needed: so with several threads only the most is certain.
    """
    monkeypatch.setattr(os, "cpu_count", lambda: num_threads)
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

    few, many = peak_bytes(2), peak_bytes(200)
    blocks_bytes = average.BLOCK_ELEMENTS * (4 + 2 * 8)  # a thread's: one as read, two sums
    assert few > 8_000_000
    assert many < 8_000_000 + num_threads * blocks_bytes + 600_000
    if num_threads == 1:
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
