"""Poisoned updates: numbers by hand, what must hold for any update, who attacks, settings that make none."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedfer.android_stub.simulation.attacks import (
    KINDS,
    AttackSettings,
    attack_settings,
    attackers,
    norm_of,
    poisoned_examples,
    poisoned_weights,
)
from fedfer.export.checkpoint import Weights
from fedfer.export.contract import WeightSpec
from fedfer.model.data import LabelledImages
from fedfer.model.errors import UsageError

SPECS = (
    WeightSpec("kernel", (2, 2), "float32", "trainable"),
    WeightSpec("scalar", (), "float32", "trainable"),
    WeightSpec("moving_mean", (2,), "float32", "statistic"),
    WeightSpec("moving_variance", (2,), "float32", "statistic", nonnegative=True),
)
TASK = (0, 3, 1)  # seed, device, round
FACTORS = {"sign_flip": 2.0, "scale": 10.0, "noise": 3.0}


def weights(kernel: float, scalar: float, mean: float, variance: float) -> Weights:
    values = (kernel, scalar, mean, variance)
    return {s.name: np.full(s.shape, value, np.float32) for s, value in zip(SPECS, values, strict=True)}


BASE, TRAINED = weights(1, -2, 0.5, 1), weights(3, -1, 0.25, 0.1)


@pytest.mark.parametrize(
    ("kind", "factor", "expected"),
    [
        ("sign_flip", 1.0, weights(-1, -3, 0.75, 0.1)),  # 1 - (3 - 1), -2 - 1, 0.5 + 0.25; the variance stays
        ("sign_flip", 4.0, weights(-7, -6, 1.5, 0.1)),  # 1 - 4 * 2, -2 - 4 * 1, 0.5 + 4 * 0.25
        ("scale", 10.0, weights(21, 8, -2, 0.1)),  # 1 + 10 * 2, -2 + 10, 0.5 - 2.5; else 1 - 9 = -8 < 0
        ("label_flip", 1.0, TRAINED),
    ],
)
def test_poison_by_hand(kind: Any, factor: float, expected: Weights) -> None:
    found = poisoned_weights(AttackSettings(kind, factor=factor), BASE, TRAINED, SPECS, TASK)
    assert list(found) == list(expected)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])
        assert (found[name].dtype, found[name].shape) == (np.dtype(np.float32), expected[name].shape)


def test_nan_is_everywhere() -> None:
    found = poisoned_weights(AttackSettings("nan"), BASE, TRAINED, SPECS, TASK)
    assert all(np.isnan(tensor).all() for tensor in found.values())


def test_flipped_labels_by_hand() -> None:
    examples = LabelledImages(np.zeros((4, 2, 2, 1), np.uint8), np.array([0, 1, 5, 6], np.uint8))
    flipped = poisoned_examples(AttackSettings("label_flip"), examples, 7)
    assert flipped.labels.tolist() == [6, 5, 1, 0]
    assert flipped.labels.dtype == np.uint8
    assert flipped.images is examples.images
    assert poisoned_examples(AttackSettings("sign_flip"), examples, 7) is examples


def any_weights(bound: float) -> st.SearchStrategy[Weights]:
    numbers = st.floats(-bound, bound, width=32)
    above_0 = st.floats(0, bound, width=32)
    return st.fixed_dictionaries(
        {
            s.name: arrays.arrays(np.float32, s.shape, elements=above_0 if s.nonnegative else numbers)
            for s in SPECS
        }
    )


@given(base=any_weights(100), trained=any_weights(100), kind=st.sampled_from(KINDS))
def test_every_kind_but_nan_passes_the_check_of_uploads(base: Weights, trained: Weights, kind: Any) -> None:
    """Names, shapes, finite, no variance below 0; what went in stays what it was."""
    copies = [{name: tensor.copy() for name, tensor in given.items()} for given in (base, trained)]
    found = poisoned_weights(AttackSettings(kind, factor=FACTORS.get(kind, 1.0)), base, trained, SPECS, TASK)
    assert {(n, t.shape) for n, t in found.items()} == {(s.name, s.shape) for s in SPECS}
    assert {t.dtype for t in found.values()} == {np.dtype(np.float32)}
    if kind != "nan":
        assert all(np.isfinite(tensor).all() for tensor in found.values())
        assert (found["moving_variance"] >= 0).all()
    for before, after in zip(copies, (base, trained), strict=True):
        assert all(np.array_equal(before[name], after[name]) for name in before)


def step(base: Weights, found: Weights) -> Weights:
    """How the tensors that are moved were moved."""
    return {s.name: found[s.name] - base[s.name] for s in SPECS if not s.nonnegative}


@given(base=any_weights(1), trained=any_weights(1), factor=st.floats(0.125, 8, width=32))
def test_lengths_and_ways(base: Weights, trained: Weights, factor: float) -> None:
    """Every kind is `factor` updates long; sign flips lie opposite, noise lies anywhere."""
    honest = norm_of(step(base, trained))
    slack = 1e-5 * (1 + factor)
    ways: list[Any] = ["sign_flip", "noise"] + ["scale"] * (factor != 1)
    for kind in ways:
        found = poisoned_weights(AttackSettings(kind, factor=factor), base, trained, SPECS, TASK)
        assert norm_of(step(base, found)) == pytest.approx(factor * honest, rel=1e-4, abs=slack)
    flipped = poisoned_weights(AttackSettings("sign_flip"), base, trained, SPECS, TASK)
    sums = [step(base, flipped)[name] + step(base, trained)[name] for name in ("kernel", "moving_mean")]
    assert max(np.abs(s).max() for s in sums) < 1e-5


def test_noise_is_drawn_by_task() -> None:
    noise = AttackSettings("noise")
    one, again, other = (
        poisoned_weights(noise, BASE, TRAINED, SPECS, task)["kernel"] for task in (TASK, TASK, (0, 3, 2))
    )
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


@given(share=st.floats(0.001, 1), num_devices=st.integers(1, 300), seed=st.integers(0, 2**40))
def test_attackers_are_the_share_of_the_devices(share: float, num_devices: int, seed: int) -> None:
    settings = AttackSettings("nan", share=share)
    found = attackers(settings, num_devices, seed)
    assert found <= set(range(num_devices))
    assert len(found) == max(1, int(share * num_devices + 0.5))
    assert found == attackers(settings, num_devices, seed)


def test_the_seed_draws_who_attacks() -> None:
    """20 % of ten are two; over many seeds everybody is drawn, whatever the attack."""
    drawn = [attackers(AttackSettings("scale", factor=5), 10, seed) for seed in range(60)]
    assert {len(found) for found in drawn} == {2}
    assert set().union(*drawn) == set(range(10))
    assert drawn == [attackers(AttackSettings("sign_flip"), 10, seed) for seed in range(60)]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({}, "attack has no kind; expected one of label_flip, sign_flip"),
        ({"kind": "backdoor"}, "kind is 'backdoor'; expected one of"),
        ({"kind": "nan", "shares": 0.1}, "attack has no setting 'shares'; its settings: kind, share, factor"),
        ({"kind": "nan", "share": 0}, "share is 0.0; expected a number above 0"),
        ({"kind": "nan", "share": 1.5}, "share is 1.5"),
        ({"kind": "nan", "share": "half"}, "share is 'half'"),
        ({"kind": "nan", "share": True}, "share is True"),
        ({"kind": "scale"}, "scale with factor 1 is an honest update"),
        ({"kind": "scale", "factor": -1.0}, "factor is -1.0; expected a number above 0"),
        ({"kind": "noise", "factor": float("nan")}, "factor is nan"),
        ({"kind": ["nan"]}, r"kind is \['nan'\]; expected a text"),
    ],
)
def test_settings_that_make_no_attack(table: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        attack_settings(table)


def test_settings_of_a_scenario() -> None:
    assert attack_settings({"kind": "sign_flip"}) == AttackSettings("sign_flip", 0.2, 1.0)
    assert attack_settings({"kind": "scale", "share": 1, "factor": 10}) == AttackSettings("scale", 1, 10)
