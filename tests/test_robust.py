"""Median, trimmed mean, Krum, multi-Krum, norm-bounded mean: by hand, against numpy, against attackers."""

from pathlib import Path

import numpy as np
import pytest
from average_helpers import SMALL, constant_weights, random_weights, write_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfer.aggregator import update_reader
from fedfer.aggregator.strategies import blocks
from fedfer.aggregator.strategies.krum import Krum, MultiKrum, krum_scores, squared_distances
from fedfer.aggregator.strategies.registry import make_strategy
from fedfer.aggregator.strategies.trimmed_mean import TrimmedMean
from fedfer.aggregator.update_reader import WeightedFile, in_order
from fedfer.export.checkpoint import Weights, checkpoint_bytes
from fedfer.model.errors import UsageError

TRAINABLE = ("dense/kernel", "scale")


def files_of(directory: Path, sent: list[Weights]) -> list[WeightedFile]:
    paths = [write_checkpoint(directory, weights) for weights in sent]
    return [WeightedFile(path.name, 1, f"device-{i}", path) for i, path in enumerate(paths)]


def result(
    directory: Path, strategy: dict[str, object], sent: list[Weights], parent: Weights | None = None
) -> Weights:
    path = write_checkpoint(directory, parent or constant_weights(0))
    return make_strategy(strategy).aggregate(path, files_of(directory, sent), None, SMALL).weights


def numbers(weights: Weights) -> dict[str, float]:
    """For weights whose tensors each hold one number."""
    assert all(np.unique(tensor).size == 1 for tensor in weights.values())
    return {name: float(tensor.flat[0]) for name, tensor in weights.items()}


def everywhere(value: float) -> dict[str, float]:
    return dict.fromkeys(("dense/kernel", "norm/variance", "scale"), value)


@pytest.mark.parametrize(
    ("strategy", "sent", "expected"),
    [
        ({"name": "coordinate_median"}, [7], 7),
        ({"name": "coordinate_median"}, [1, 7], 4),
        ({"name": "coordinate_median"}, [9, 1, 2], 2),
        ({"name": "coordinate_median"}, [9, 1, 2, 4], 3),
        # ceil(0.2 * 5) = 1 on either side: (2 + 3 + 10) / 3
        ({"name": "trimmed_mean", "trim_fraction": 0.2}, [1, 2, 3, 10, 100], 5),
        ({"name": "trimmed_mean", "trim_fraction": 0}, [1, 2, 9], 4),
        ({"name": "trimmed_mean"}, [1, 2, 9], 2),
        ({"name": "trimmed_mean"}, [1, 3], 2),
        ({"name": "trimmed_mean", "trim_fraction": 0.49}, [1, 2, 4, 50], 3),
    ],
)
def test_by_hand(tmp_path: Path, strategy: dict[str, object], sent: list[float], expected: float) -> None:
    assert numbers(result(tmp_path, strategy, [constant_weights(x) for x in sent])) == everywhere(expected)


def test_trimming_always_leaves_somebody() -> None:
    for share in (0.0, 0.1, 0.25, 0.4, 0.49, 0.4999):
        for n in range(1, 200):
            k = TrimmedMean(share).num_trimmed(n)
            assert n - 2 * k >= 1
            assert k >= min(share * n, (n - 1) // 2)


@given(n=st.integers(1, 9), seed=st.integers(0, 1000), block_bytes=st.sampled_from([1, 64, 1 << 20]))
@settings(max_examples=25)
def test_median_is_numpys(
    tmp_path_factory: pytest.TempPathFactory, n: int, seed: int, block_bytes: int
) -> None:
    """Whatever the block; numpy's own median of float32 halves the sum of two in float32."""
    sent = [random_weights(seed + i) for i in range(n)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "MAX_ROWS_BYTES", block_bytes)
        patch.setattr(update_reader, "MAX_OPEN_UPDATES", 4)
        after = result(tmp_path_factory.mktemp("u"), {"name": "coordinate_median"}, sent)
    for name, tensor in after.items():
        expected = np.median(np.stack([w[name] for w in sent]).astype(np.float64), axis=0)
        np.testing.assert_array_equal(tensor, expected.astype(np.float32))


def test_distances_and_scores_by_hand(tmp_path: Path) -> None:
    """Seven trainable numbers each: constants 0, 1, 3 lie 7, 28, 63 apart (squared); statistics count not.
    With f = 0 an update's score is its distance to the nearest n - 2 = 1 other: 7, 7, 28."""
    sent = [{**constant_weights(x), "norm/variance": np.full(3, 50 * x, np.float32)} for x in (0, 1, 3)]
    ordered = in_order(files_of(tmp_path, sent))
    values = [float(sent[int(update.device_id[-1])]["scale"]) for update in ordered]
    found = squared_distances(write_checkpoint(tmp_path, constant_weights(5)), ordered, SMALL)
    expected = [[7 * (a - b) ** 2 for a in values] for b in values]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    scores = dict(zip(values, krum_scores(found, 0).tolist(), strict=True))
    assert scores == pytest.approx({0.0: 7.0, 1.0: 7.0, 3.0: 28.0})


def test_krum_takes_one_of_the_crowd(tmp_path: Path) -> None:
    """f = 1, n = 5, two nearest count: 2 has 1 + 1 to 1 and 3, the others more. 90 has no say in statistics
    either: 1, 2, 3, 4, 90 without the smallest and the largest average 3."""
    sent = [constant_weights(x) for x in (1, 2, 3, 4, 90)]
    after = numbers(result(tmp_path, {"name": "krum"}, sent))
    assert after["scale"] == after["dense/kernel"]
    assert after["scale"] in (2.0, 3.0)  # 2 and 3 have the same score
    assert after["norm/variance"] == 3.0


def test_multi_krum_averages_the_best(tmp_path: Path) -> None:
    """f = 1, n = 6: to their three nearest, 0, 1, 2, 3, 4 have 14, 6, 6, 6, 14; the best three average 2."""
    sent = [constant_weights(x) for x in (0, 1, 2, 3, 4, 90)]
    assert numbers(result(tmp_path, {"name": "multi_krum"}, sent))["scale"] == 2.0
    one = numbers(result(tmp_path, {"name": "multi_krum", "num_selected": 1}, sent))
    assert one == numbers(result(tmp_path, {"name": "krum"}, sent))
    with pytest.raises(UsageError, match="6 updates; multi_krum with these settings needs 7"):
        result(tmp_path, {"name": "multi_krum", "num_selected": 4}, sent)


def naive_multi_krum(
    sent: list[Weights], f: int, m: int
) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
    """Blanchard et al. 2017, section 4, in plain loops."""
    flat = [np.concatenate([w[name].ravel() for name in TRAINABLE]).astype(np.float64) for w in sent]
    scores = []
    for i, a in enumerate(flat):
        others = sorted(float(((a - b) ** 2).sum()) for j, b in enumerate(flat) if j != i)
        scores.append(sum(others[: len(sent) - f - 2]))
    best = np.argsort(scores)[:m]
    return {name: np.mean([sent[i][name].astype(np.float64) for i in best], axis=0) for name in TRAINABLE}


@given(f=st.integers(0, 2), extra=st.integers(1, 3), seed=st.integers(0, 1000))
@settings(max_examples=25)
def test_multi_krum_against_the_paper(
    tmp_path_factory: pytest.TempPathFactory, f: int, extra: int, seed: int
) -> None:
    """(Above 2f + 3: where one neighbour counts, two that are each other's nearest have equal scores.)"""
    sent = [random_weights(seed * 20 + i) for i in range(2 * f + 3 + extra)]
    m = len(sent) - f - 2
    after = result(tmp_path_factory.mktemp("u"), {"name": "multi_krum", "num_byzantine": f}, sent)
    for name, expected in naive_multi_krum(sent, f, m).items():
        np.testing.assert_allclose(after[name], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["krum", "multi_krum"])
def test_krum_refuses_rounds_in_which_it_promises_nothing(tmp_path: Path, name: str) -> None:
    sent = [random_weights(i) for i in range(6)]
    with pytest.raises(UsageError, match=f"6 updates; {name} with these settings needs 7") as refused:
        result(tmp_path, {"name": name, "num_byzantine": 2}, sent)
    assert refused.value.code == "too_few_updates"
    assert MultiKrum(num_byzantine=1).num_kept(7) == 4


@pytest.mark.parametrize(("num_left", "f"), [(9, 3), (8, 2), (7, 2), (6, 1), (5, 1), (4, 0), (3, 0), (2, 0)])
def test_krum_bears_as_many_liars_as_gates_leave_it_room_for(num_left: int, f: int) -> None:
    """f = 3 needs nine updates; eight are enough for two, seven too, six and five for one."""
    left = Krum(num_byzantine=3).after_gates(num_left)
    assert left == Krum(num_byzantine=f)
    assert (left.min_updates <= num_left) == (num_left > 2)
    assert MultiKrum(num_byzantine=3).after_gates(num_left) == MultiKrum(num_byzantine=f)


@pytest.mark.parametrize(("num_left", "f", "m"), [(12, 3, 5), (10, 3, 5), (9, 3, 4), (5, 1, 2), (3, 0, 1)])
def test_multi_krum_selects_no_more_than_are_left(num_left: int, f: int, m: int) -> None:
    left = MultiKrum(num_byzantine=3, num_selected=5).after_gates(num_left)
    assert left == MultiKrum(num_byzantine=f, num_selected=m)
    assert left.min_updates <= num_left


@given(f=st.integers(0, 20), more=st.integers(0, 20), turned_away=st.integers(0, 60))
def test_liars_that_gates_found_leave_no_liar_unborne(f: int, more: int, turned_away: int) -> None:
    num_left = 2 * f + 3 + more - turned_away
    if num_left >= 3:
        assert Krum(num_byzantine=f).after_gates(num_left).num_byzantine >= f - turned_away


def test_norm_bound_by_hand(tmp_path: Path) -> None:
    """Parent 0, steps of 1 and 10 over seven weights have norms sqrt(7) and 10 sqrt(7). Bounded to 2 sqrt(7)
    the second counts as 2: (1 + 2) / 2. Statistics: bounded to their own lower median norm: (1 + 1) / 2."""
    strategy: dict[str, object] = {"name": "norm_bounded", "max_norm": 2 * 7**0.5}
    after = result(tmp_path, strategy, [constant_weights(1), constant_weights(10)])
    np.testing.assert_allclose(after["dense/kernel"], 1.5, rtol=1e-6)
    np.testing.assert_allclose(after["norm/variance"], 1.0, rtol=1e-6)


def test_norm_bound_by_the_rounds_median(tmp_path: Path) -> None:
    """Steps 1, 2, -90: the last counts as -2, so (1 + 2 - 2) / 3."""
    sent = [
        constant_weights(1),
        constant_weights(2),
        {**constant_weights(-90), "norm/variance": np.full(3, 90, np.float32)},
    ]
    after = result(tmp_path, {"name": "norm_bounded"}, sent)
    np.testing.assert_allclose(after["scale"], 1 / 3, rtol=1e-6)
    np.testing.assert_allclose(after["norm/variance"], 5 / 3, rtol=1e-6)


def test_no_bound_is_reached_by_updates_of_one_size(tmp_path: Path) -> None:
    """Then it is the plain mean."""
    after = result(
        tmp_path, {"name": "norm_bounded", "max_norm": 1e9}, [constant_weights(x) for x in (1, 2, 6)]
    )
    assert after["scale"] == 3.0


def honest_and_attackers(attack: str, num_attackers: int) -> tuple[Weights, list[Weights]]:
    """Seven honest devices step by about +1 from the parent; attackers send theirs flipped or 100-fold."""
    parent = {name: abs(tensor) + 5 for name, tensor in random_weights(0).items()}
    sent = []
    for i in range(7 + num_attackers):
        step = {name: 1 + 0.1 * tensor for name, tensor in random_weights(i + 1).items()}
        sign = {"flip": -1.0, "scale": 100.0, "flip_scale": -100.0}[attack] if i >= 7 else 1.0
        sent.append({n: np.asarray(parent[n] + np.float32(sign) * step[n], np.float32) for n in parent})
        sent[-1]["norm/variance"] = abs(sent[-1]["norm/variance"])
    return parent, sent


ROBUST: list[dict[str, object]] = [
    {"name": "coordinate_median"},
    {"name": "trimmed_mean", "trim_fraction": 0.25},
    {"name": "krum", "num_byzantine": 2},
    {"name": "multi_krum", "num_byzantine": 2},
    {"name": "norm_bounded"},
]


@pytest.mark.parametrize("attack", ["flip", "scale", "flip_scale"])
@pytest.mark.parametrize("strategy", ROBUST, ids=lambda s: str(s["name"]))
def test_two_attackers_of_nine(tmp_path: Path, strategy: dict[str, object], attack: str) -> None:
    """Every rule's step stays near the honest one. Norm bounding lets an attacker count as one device: with
    two flipped signs of nine the step is (7 - 2) / 9 = 0.56 of the honest one."""
    parent, sent = honest_and_attackers(attack, 2)
    after = result(tmp_path, strategy, sent, parent)
    for name in TRAINABLE:
        step = float(np.mean(after[name] - parent[name]))
        low = 0.4 if strategy["name"] == "norm_bounded" else 0.8
        assert low < step < 1.2, name
    if strategy["name"] != "norm_bounded":
        assert abs(float(np.mean(after["norm/variance"] - parent["norm/variance"])) - 1) < 0.3


@pytest.mark.parametrize(("attack", "factor"), [("scale", 23.0), ("flip_scale", -21.4)])
def test_the_mean_falls_to_them(tmp_path: Path, attack: str, factor: float) -> None:
    """(7 + 2 * 100) / 9 = 23, (7 - 2 * 100) / 9 = -21.4 times the honest step."""
    parent, sent = honest_and_attackers(attack, 2)
    step = float(
        np.mean(result(tmp_path, {"name": "fedavg"}, sent, parent)["dense/kernel"] - parent["dense/kernel"])
    )
    assert step == pytest.approx(factor, rel=0.1)


@pytest.mark.parametrize("strategy", ROBUST[:2], ids=lambda s: str(s["name"]))
def test_a_majority_wins(tmp_path: Path, strategy: dict[str, object]) -> None:
    """No rule holds against more liars than it is made for."""
    parent, sent = honest_and_attackers("flip_scale", 12)
    assert float(np.mean(result(tmp_path, strategy, sent, parent)["scale"] - parent["scale"])) < -50


def test_the_claimed_number_of_examples_has_no_say(tmp_path: Path) -> None:
    parent, sent = honest_and_attackers("flip", 2)
    honest = files_of(tmp_path, sent)
    boasting = [
        WeightedFile(u.sha256, 1 + 999_999 * (i >= 7), u.device_id, u.path) for i, u in enumerate(honest)
    ]
    start = write_checkpoint(tmp_path, parent)
    for strategy in map(make_strategy, ROBUST):
        plain, claimed = (strategy.aggregate(start, u, None, SMALL).weights for u in (honest, boasting))
        assert checkpoint_bytes(plain, SMALL) == checkpoint_bytes(claimed, SMALL)
