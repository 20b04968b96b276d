"""Gates on updates and candidates, and the norms that they go by."""

from pathlib import Path

import numpy as np
import pytest
from average_helpers import SMALL, constant_weights, random_weights, write_checkpoint
from hypothesis import given
from hypothesis import strategies as st

from fedfer.aggregator.gates import GateSettings, gate_candidate, gate_norms, gate_update
from fedfer.aggregator.norms import Norms, delta_norms, median_norms
from fedfer.aggregator.update_reader import WeightedFile
from fedfer.model.errors import UsageError
from fedfer.model.measures import Measures


def measures(right: int, of: int = 100) -> Measures:
    return Measures(of, 1.0, right / of, (None,), ((0,),))


def test_norms_by_hand(tmp_path: Path) -> None:
    """Seven weights each 2 away, three statistics 2 away: sqrt(7 * 4), sqrt(3 * 4). A stale one, three
    versions late, counts half."""
    parent = write_checkpoint(tmp_path, constant_weights(1))
    sent, base = (write_checkpoint(tmp_path, constant_weights(x)) for x in (3, 5))
    files = [WeightedFile(sent.name, 1, "d", sent), WeightedFile(sent.name, 1, "d", sent, base, 3)]
    fresh, stale = delta_norms(parent, files, SMALL)
    assert (fresh.weights, fresh.statistics) == pytest.approx((28**0.5, 12**0.5))
    assert (stale.weights, stale.statistics) == pytest.approx((7**0.5, 3**0.5))


def test_norms_against_numpy(tmp_path: Path) -> None:
    parent, sent = random_weights(1), random_weights(2)
    path = write_checkpoint(tmp_path, sent)
    (found,) = delta_norms(write_checkpoint(tmp_path, parent), [WeightedFile("x", 1, "d", path)], SMALL)
    steps = [(sent[n].astype(np.float64) - parent[n]).ravel() for n in ("dense/kernel", "scale")]
    assert found.weights == pytest.approx(np.linalg.norm(np.concatenate(steps)))


def test_median_is_the_lower_of_two() -> None:
    assert median_norms([Norms(1, 8), Norms(100, 7), Norms(2, 6), Norms(3, 5)]) == Norms(2, 6)


def test_too_long_a_step_is_turned_away() -> None:
    """Median 2: with a ratio of 3, 6 passes and 6.1 does not; nor does d, for its statistics."""
    norms = {"a": Norms(1, 1), "b": Norms(2, 1), "c": Norms(6, 1), "d": Norms(2, 3.1), "e": Norms(6.1, 1)}
    rejected = gate_norms(norms, GateSettings(max_norm_ratio=3))
    assert {name: r.code for name, r in rejected.items()} == {"d": "norm_too_large", "e": "norm_too_large"}
    assert rejected["e"].reason == (
        "its weights lie 6.1 from the version it was trained from; the round's median is 2, and at most 3 "
        "times that is taken"
    )
    assert "its statistics lie 3.1" in rejected["d"].reason


def test_no_gate_without_a_ratio_or_a_median() -> None:
    norms = {"a": Norms(1, 1), "b": Norms(1, 1), "c": Norms(1e9, 1)}
    assert gate_norms(norms, GateSettings()) == {}
    assert gate_norms({"a": norms["a"], "c": norms["c"]}, GateSettings(max_norm_ratio=2)) == {}
    assert set(gate_norms(norms, GateSettings(max_norm_ratio=2))) == {"c"}


def test_where_nobody_moves_whoever_moves_is_turned_away() -> None:
    norms = {"a": Norms(0, 0), "b": Norms(0, 0), "c": Norms(0.1, 0)}
    assert set(gate_norms(norms, GateSettings(max_norm_ratio=10))) == {"c"}


@given(
    honest=st.lists(st.floats(1, 2), min_size=2, max_size=20),
    liars=st.lists(st.floats(100, 1e30), max_size=19),
)
def test_a_scaled_minority_is_caught_and_nobody_else(honest: list[float], liars: list[float]) -> None:
    liars = liars[: len(honest) - 1]
    norms = {f"honest-{i}": Norms(x, 0) for i, x in enumerate(honest)}
    norms |= {f"liar-{i}": Norms(x, 0) for i, x in enumerate(liars)}
    caught = gate_norms(norms, GateSettings(max_norm_ratio=10))
    assert set(caught) == {name for name in norms if name.startswith("liar")}


def test_holdout_gates_in_whole_images() -> None:
    """A margin of 0.1 of 100 images is 10 images, not 11."""
    settings = GateSettings(max_update_drop=0.1, max_candidate_drop=0.0)
    assert gate_update(measures(60), measures(50), settings) is None
    rejected = gate_update(measures(60), measures(49), settings)
    assert rejected is not None
    assert rejected.code == "holdout_drop"
    assert rejected.reason == (
        "holdout accuracy of this update alone is 0.490, of the version before 0.600; "
        "a drop of at most 0.1 is taken"
    )
    assert gate_candidate(measures(60), measures(60), settings) is None
    worse = gate_candidate(measures(60), measures(59), settings)
    assert worse is not None
    assert worse.code == "candidate_worse"


def test_holdout_gates_are_off_by_default() -> None:
    assert gate_update(measures(100), measures(0), GateSettings()) is None
    assert gate_candidate(measures(100), measures(0), GateSettings()) is None


@pytest.mark.parametrize("right", range(71))
def test_margins_are_not_decided_by_rounding(right: int) -> None:
    """Of 70 images a margin of 0.3 is 21 images, though 0.3 * 70 is 20.999... in float64."""
    rejected = gate_candidate(measures(70, 70), measures(right, 70), GateSettings(max_candidate_drop=0.3))
    assert (rejected is None) == (70 - right <= 21)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_norm_ratio": 0.5}, "max_norm_ratio is 0.5; expected 1 to 1e9"),
        ({"max_update_drop": 1.5}, "max_update_drop is 1.5; expected a share"),
        ({"max_candidate_drop": -0.1}, "max_candidate_drop is -0.1; expected a share"),
    ],
)
def test_settings(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        GateSettings(**settings)
