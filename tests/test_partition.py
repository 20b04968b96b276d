"""Partitions: properties that hold for all settings, and small ones done by hand."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedfer.model.errors import UsageError
from fedfer.model.partition import SCHEMES, partition

IntArray = NDArray[np.integer[Any]]
LABELS = st.lists(st.integers(0, 6), min_size=1, max_size=80).map(lambda values: np.array(values, np.uint8))
ALPHAS = st.sampled_from([1e-3, 0.1, 0.5, 10.0, 1e6])


@given(
    labels=LABELS, data=st.data(), scheme=st.sampled_from(SCHEMES), alpha=ALPHAS, seed=st.integers(0, 2**40)
)
def test_without_a_count_every_image_has_one_owner(
    labels: IntArray, data: st.DataObject, scheme: str, alpha: float, seed: int
) -> None:
    num_devices = data.draw(st.integers(1, len(labels)))
    parts = partition(labels, num_devices, scheme=scheme, alpha=alpha, seed=seed)
    assert len(parts) == num_devices
    assert all(len(part) for part in parts)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    again = partition(labels, num_devices, scheme=scheme, alpha=alpha, seed=seed)
    assert [part.tolist() for part in again] == [part.tolist() for part in parts]


@given(
    labels=LABELS, data=st.data(), scheme=st.sampled_from(SCHEMES), alpha=ALPHAS, seed=st.integers(0, 2**40)
)
def test_with_a_count_every_device_has_exactly_it(
    labels: IntArray, data: st.DataObject, scheme: str, alpha: float, seed: int
) -> None:
    num_devices = data.draw(st.integers(1, len(labels)))
    count = data.draw(st.integers(1, len(labels) // num_devices))
    parts = partition(labels, num_devices, scheme=scheme, alpha=alpha, examples_per_device=count, seed=seed)
    assert [len(part) for part in parts] == [count] * num_devices
    assert len(set(np.concatenate(parts).tolist())) == count * num_devices
    assert all(0 <= index < len(labels) for part in parts for index in part)


def test_contiguous_is_the_articles() -> None:
    labels = np.zeros(20, np.uint8)
    parts = partition(labels, 3, scheme="contiguous", examples_per_device=5)
    assert [part.tolist() for part in parts] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12, 13, 14]]
    # All 20 on 3 devices: 7, 7, 6.
    assert [len(part) for part in partition(labels, 3, scheme="contiguous")] == [7, 7, 6]


def label_counts(labels: IntArray, parts: Sequence[IntArray]) -> IntArray:
    return np.array([np.bincount(labels[part], minlength=7) for part in parts])


@pytest.mark.parametrize("examples_per_device", [None, 100])
def test_alpha_sets_how_far_label_mixes_differ(examples_per_device: int | None) -> None:
    """The commonest label's share on a device: near 1 for a tiny alpha, near 1/7 for a huge one."""
    labels = np.repeat(np.arange(7), 400)

    def share(alpha: float) -> float:
        parts = partition(
            labels, 10, scheme="dirichlet", alpha=alpha, examples_per_device=examples_per_device, seed=3
        )
        counts = label_counts(labels, parts)
        return float((counts.max(axis=1) / counts.sum(axis=1)).mean())

    assert share(0.01) > 0.8
    assert 0.35 < share(0.5) < 0.8
    assert share(1e6) < 0.25


def test_iid_and_seeds() -> None:
    labels = np.repeat(np.arange(7), 100)
    counts = label_counts(labels, partition(labels, 2, scheme="iid", seed=1))
    assert counts.min() > 30  # of 50 expected, six standard deviations
    first, other = (partition(labels, 2, scheme="iid", seed=seed)[0].tolist() for seed in (1, 2))
    assert first != other


def test_a_label_that_runs_out_leaves_the_mix() -> None:
    labels = np.array([0] * 2 + [1] * 98)
    parts = partition(labels, 10, scheme="dirichlet", alpha=0.01, examples_per_device=10)
    assert label_counts(labels, parts).sum(axis=0)[:2].tolist() == [2, 98]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"scheme": "sorted"}, "expected a partition of contiguous, iid, dirichlet; received 'sorted'"),
        ({"num_devices": 0}, "received 0 and None"),
        ({"examples_per_device": 0}, "received 3 and 0"),
        ({"num_devices": 11}, "11 devices need 11 images"),
        ({"examples_per_device": 4}, r"3 devices need 12 images \(4 each\); received 10"),
        ({"scheme": "dirichlet", "alpha": 0.0}, "expected an alpha"),
        ({"scheme": "dirichlet", "alpha": float("nan")}, "expected an alpha"),
        ({"seed": -1}, "expected a seed"),
    ],
)
def test_refuses_what_cannot_be(settings: dict[str, object], words: str) -> None:
    call = {"num_devices": 3, "scheme": "contiguous", **settings}
    with pytest.raises(UsageError, match=words):
        partition(np.zeros(10, np.uint8), **call)  # type: ignore[arg-type]


def test_dirichlet_mixes_vary_around_the_datas_own() -> None:
    """A label that is 2 % of the images stays rare in the fleet; a symmetric draw would make it a third."""
    labels = np.repeat([0, 1, 2], [200, 4_900, 4_900])
    parts = partition(labels, 100, scheme="dirichlet", alpha=0.5, examples_per_device=50, seed=1)
    shares = np.bincount(labels[np.concatenate(parts)], minlength=3) / 5_000
    assert shares[0] < 0.05
    assert abs(shares[1] - shares[2]) < 0.2
    own = [np.bincount(labels[part], minlength=3).max() / 50 for part in parts]
    assert np.mean(own) > 0.7  # and each device is skewed: an even split gives 0.55
