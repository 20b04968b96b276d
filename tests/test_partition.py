"""Partitions: properties that hold for all settings, and small ones done by hand."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedfer.model.errors import UsageError
from fedfer.model.partition import num_owners, partition, power_sizes
from fedfer.model.partition_settings import SCHEMES, SIZED_SCHEMES, PartitionSettings

IntArray = NDArray[np.integer[Any]]
LABELS = st.lists(st.integers(0, 6), min_size=1, max_size=80).map(lambda values: np.array(values, np.uint8))
ALPHAS = st.sampled_from([1e-3, 0.1, 0.5, 10.0, 1e6])


def parts_of(
    labels: IntArray,
    num_devices: int,
    *,
    owners: NDArray[np.str_] | None = None,
    seed: int = 0,
    **settings: Any,
) -> list[NDArray[np.intp]]:
    return partition(labels, num_devices, PartitionSettings(**settings), owners=owners, seed=seed)


@given(
    labels=LABELS,
    data=st.data(),
    scheme=st.sampled_from([scheme for scheme in SCHEMES if scheme != "column"]),
    alpha=ALPHAS,
    exponent=st.sampled_from([0.0, 0.5, 1.0, 10.0]),
    seed=st.integers(0, 2**40),
)
def test_without_a_count_every_image_has_one_owner(
    labels: IntArray, data: st.DataObject, scheme: str, alpha: float, exponent: float, seed: int
) -> None:
    shards = data.draw(st.integers(1, min(3, len(labels))))
    num_devices = data.draw(st.integers(1, len(labels) // (shards if scheme == "shards" else 1)))
    settings = PartitionSettings(scheme, alpha, shards, exponent)
    parts = partition(labels, num_devices, settings, seed=seed)
    assert len(parts) == num_devices
    assert all(len(part) for part in parts)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    again = partition(labels, num_devices, settings, seed=seed)
    assert [part.tolist() for part in again] == [part.tolist() for part in parts]


@given(
    labels=LABELS,
    data=st.data(),
    scheme=st.sampled_from([scheme for scheme in SCHEMES if scheme not in SIZED_SCHEMES]),
    alpha=ALPHAS,
    seed=st.integers(0, 2**40),
)
def test_with_a_count_every_device_has_exactly_it(
    labels: IntArray, data: st.DataObject, scheme: str, alpha: float, seed: int
) -> None:
    num_devices = data.draw(st.integers(1, len(labels)))
    count = data.draw(st.integers(1, len(labels) // num_devices))
    shards = data.draw(st.sampled_from([k for k in (1, 2, 3) if count % k == 0]))
    settings = PartitionSettings(scheme, alpha, shards, examples_per_device=count)
    parts = partition(labels, num_devices, settings, seed=seed)
    assert [len(part) for part in parts] == [count] * num_devices
    assert len(set(np.concatenate(parts).tolist())) == count * num_devices
    assert all(0 <= index < len(labels) for part in parts for index in part)


def test_contiguous_is_the_articles() -> None:
    labels = np.zeros(20, np.uint8)
    parts = parts_of(labels, 3, scheme="contiguous", examples_per_device=5)
    assert [part.tolist() for part in parts] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12, 13, 14]]
    # All 20 on 3 devices: 7, 7, 6.
    assert [len(part) for part in parts_of(labels, 3, scheme="contiguous")] == [7, 7, 6]


def label_counts(labels: IntArray, parts: Sequence[IntArray]) -> IntArray:
    return np.array([np.bincount(labels[part], minlength=7) for part in parts])


@pytest.mark.parametrize("examples_per_device", [None, 100])
def test_alpha_sets_how_far_label_mixes_differ(examples_per_device: int | None) -> None:
    """The commonest label's share on a device: near 1 for a tiny alpha, near 1/7 for a huge one."""
    labels = np.repeat(np.arange(7), 400)

    def share(alpha: float) -> float:
        parts = parts_of(
            labels, 10, scheme="dirichlet", alpha=alpha, examples_per_device=examples_per_device, seed=3
        )
        counts = label_counts(labels, parts)
        return float((counts.max(axis=1) / counts.sum(axis=1)).mean())

    assert share(0.01) > 0.8
    assert 0.35 < share(0.5) < 0.8
    assert share(1e6) < 0.25


def test_iid_and_seeds() -> None:
    labels = np.repeat(np.arange(7), 100)
    counts = label_counts(labels, parts_of(labels, 2, scheme="iid", seed=1))
    assert counts.min() > 30  # of 50 expected, six standard deviations
    first, other = (parts_of(labels, 2, scheme="iid", seed=seed)[0].tolist() for seed in (1, 2))
    assert first != other


def test_a_label_that_runs_out_leaves_the_mix() -> None:
    labels = np.array([0] * 2 + [1] * 98)
    parts = parts_of(labels, 10, scheme="dirichlet", alpha=0.01, examples_per_device=10)
    assert label_counts(labels, parts).sum(axis=0)[:2].tolist() == [2, 98]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"scheme": "sorted"}, "expected a partition of contiguous, iid, .*, column; received 'sorted'"),
        ({"num_devices": 0}, "expected one or more devices; received 0"),
        ({"examples_per_device": 0}, "expected one or more examples per device; received 0"),
        ({"num_devices": 11}, r"11 devices need 11 images \(at least 1 each\)"),
        ({"examples_per_device": 4}, r"3 devices need 12 images \(4 each\); received 10"),
        ({"scheme": "dirichlet", "alpha": 0.0}, "expected an alpha"),
        ({"scheme": "dirichlet", "alpha": float("nan")}, "expected an alpha"),
        ({"scheme": "shards", "shards_per_device": 0}, "expected 1 to 10000 shards per device; received 0"),
        ({"scheme": "shards", "shards_per_device": 4}, r"need 12 images \(at least 4 each\); received 10"),
        ({"scheme": "shards", "examples_per_device": 3}, "in whole shards, 2 a device; received 3"),
        ({"scheme": "power", "exponent": -0.1}, "expected an exponent of 0 to 10; received -0.1"),
        ({"scheme": "power", "exponent": float("nan")}, "expected an exponent"),
        (
            {"scheme": "power", "examples_per_device": 2},
            "power decides how many .* received 2 .* leave them out",
        ),
        ({"scheme": "column", "column": "u", "examples_per_device": 2}, "column decides how many"),
        ({"scheme": "column"}, "go together; received the partition column and the column None"),
        ({"column": "user"}, "received the partition contiguous and the column 'user'"),
        ({"scheme": "column", "column": "user"}, "needs a CSV with that column; these images have none"),
        ({"seed": -1}, "expected a seed"),
    ],
)
def test_refuses_what_cannot_be(settings: dict[str, object], words: str) -> None:
    call = {"num_devices": 3, "scheme": "contiguous", **settings}
    with pytest.raises(UsageError, match=words):
        parts_of(np.zeros(10, np.uint8), **call)  # type: ignore[arg-type]


def test_dirichlet_mixes_vary_around_the_datas_own() -> None:
    """A label that is 2 % of the images stays rare in the fleet; a symmetric draw would make it a third."""
    labels = np.repeat([0, 1, 2], [200, 4_900, 4_900])
    parts = parts_of(labels, 100, scheme="dirichlet", alpha=0.5, examples_per_device=50, seed=1)
    shares = np.bincount(labels[np.concatenate(parts)], minlength=3) / 5_000
    assert shares[0] < 0.05
    assert abs(shares[1] - shares[2]) < 0.2
    own = [np.bincount(labels[part], minlength=3).max() / 50 for part in parts]
    assert np.mean(own) > 0.7  # and each device is skewed: an even split gives 0.55


def test_shards_by_hand() -> None:
    """Labels 1 0 1 0 ... sorted: places 1 3 5 7, then 0 2 4 6; four shards of two, two a device."""
    labels = np.array([1, 0] * 4)
    parts = parts_of(labels, 2, scheme="shards", seed=1)
    shards = {(1, 3): 0, (5, 7): 0, (0, 2): 1, (4, 6): 1}
    dealt = [tuple(part[at : at + 2].tolist()) for part in parts for at in (0, 2)]
    assert sorted(dealt) == sorted(shards)
    one_label_each = {
        seed
        for seed in range(30)
        if len(set(labels[parts_of(labels, 2, scheme="shards", seed=seed)[0]])) == 1
    }
    assert 2 <= len(one_label_each) <= 20  # a third of the 6 hands; 10 of 30 expected


def test_shards_of_the_paper() -> None:
    """McMahan et al.: 200 shards of 300 of the 60,000 digits, two each: most devices see two digits."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 6_000))
    parts = parts_of(labels, 100, scheme="shards")
    assert {len(part) for part in parts} == {600}
    kinds = [len(set(labels[part].tolist())) for part in parts]
    assert set(kinds) == {1, 2}
    assert kinds.count(2) > 75  # a hand of one digit has probability 19/199


def test_shards_of_uneven_data_differ_by_one_image_a_shard() -> None:
    parts = parts_of(np.zeros(11, np.uint8), 2, scheme="shards")
    assert sum(map(len, parts)) == 11
    assert {len(part) for part in parts} <= {5, 6}


def test_power_law_by_hand() -> None:
    """Shares 6/11, 3/11, 2/11 of the 7 images beyond one each: 3.8, 1.9, 1.3; two more by remainder."""
    assert power_sizes(10, 3, 1.0).tolist() == [5, 3, 2]
    assert power_sizes(14, 3, 1.0).tolist() == [7, 4, 3]
    assert power_sizes(10, 3, 0.0).tolist() == [4, 3, 3]
    assert power_sizes(103, 3, 10.0).tolist() == [101, 1, 1]
    assert power_sizes(3, 3, 1.0).tolist() == [1, 1, 1]
    sizes = [len(part) for part in parts_of(np.zeros(1_100, np.uint8), 10, scheme="power")]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] / sizes[1] == pytest.approx(2, rel=0.02)


@given(num_devices=st.integers(1, 300), extra=st.integers(0, 5_000), exponent=st.floats(0, 10))
def test_power_sizes_are_whole_falling_and_in_proportion(
    num_devices: int, extra: int, exponent: float
) -> None:
    sizes = power_sizes(num_devices + extra, num_devices, exponent)
    assert sizes.sum() == num_devices + extra
    assert sizes.min() >= 1
    assert (np.diff(sizes) <= 0).all()
    weights = np.arange(1.0, num_devices + 1) ** -exponent
    assert np.abs(sizes - 1 - extra * weights / weights.sum()).max() < 1 + 1e-6


def test_power_takes_labels_at_random() -> None:
    labels = np.repeat(np.arange(2), 500)
    first = parts_of(labels, 2, scheme="power", seed=3)[0]
    assert 0.4 < labels[first].mean() < 0.6


OWNERS = np.array(["ben", "ann", "ben", "cleo", "ann", "ben"])


def test_a_column_makes_devices_in_the_order_of_the_source() -> None:
    parts = parts_of(np.zeros(6, np.uint8), 3, scheme="column", column="user", owners=OWNERS)
    assert [part.tolist() for part in parts] == [[0, 2, 5], [1, 4], [3]]
    assert num_owners(OWNERS) == 3


def test_of_more_owners_than_devices_some_are_chosen() -> None:
    whole = {(0, 2, 5), (1, 4), (3,)}
    seen = set()
    for seed in range(20):
        parts = parts_of(np.zeros(6, np.uint8), 2, scheme="column", column="u", owners=OWNERS, seed=seed)
        hands = [tuple(part.tolist()) for part in parts]
        assert set(hands) < whole
        assert hands == sorted(hands)  # by first appearance, as in the source
        seen |= {tuple(hands)}
    assert len(seen) == 3
    with pytest.raises(UsageError, match="4 devices need as many values in the column; it has 3"):
        parts_of(np.zeros(6, np.uint8), 4, scheme="column", column="u", owners=OWNERS)
