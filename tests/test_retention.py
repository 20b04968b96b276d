"""Which versions a rule deletes, and which it never does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfer.aggregator.retention import KeptVersion, RetentionSettings, to_delete
from fedfer.model.errors import UsageError


def run(length: int, pinned: frozenset[int] = frozenset()) -> list[KeptVersion]:
    return [KeptVersion(i, f"w{i}", i in pinned) for i in range(length)]


def test_all_are_kept_by_default() -> None:
    assert to_delete(run(1000), RetentionSettings()) == []
    assert to_delete(run(1000), RetentionSettings(keep_every=7)) == []


def test_the_last_the_milestones_and_the_pinned_stay() -> None:
    """Of rounds 0 to 9: 8, 9 are the last two; 0, 4, 8 are fourths; 5 is the best."""
    settings = RetentionSettings(keep_last=2, keep_every=4)
    assert to_delete(run(10, frozenset({5})), settings) == ["w1", "w2", "w3", "w6", "w7"]
    assert to_delete(list(reversed(run(10, frozenset({5})))), settings) == ["w1", "w2", "w3", "w6", "w7"]


def test_equal_weights_are_one_file() -> None:
    """Round 9 was rolled back to what round 1 had."""
    versions = [*run(3), KeptVersion(9, "w1")]
    assert to_delete(versions, RetentionSettings(keep_last=1)) == ["w0", "w2"]


@given(
    length=st.integers(1, 30),
    pinned=st.frozensets(st.integers(0, 29)),
    keep_last=st.integers(1, 10),
    keep_every=st.none() | st.integers(1, 10),
)
def test_what_must_stay_stays(
    length: int, pinned: frozenset[int], keep_last: int, keep_every: int | None
) -> None:
    settings = RetentionSettings(keep_last, keep_every)
    versions = run(length, pinned)
    gone = to_delete(versions, settings)
    assert len(gone) == len(set(gone))
    assert not {v.weights for v in versions if v.pinned} & set(gone)
    assert not {v.weights for v in versions[-keep_last:]} & set(gone)
    left = [v for v in versions if v.weights not in gone]
    assert to_delete(left, settings) == []  # what stays, stays
    assert len(left) <= keep_last + len(pinned) + (length if keep_every else 0)


@pytest.mark.parametrize("settings", [{"keep_last": 0}, {"keep_every": 0}, {"keep_last": -1}])
def test_settings(settings: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="expected 1 to 1000000"):
        RetentionSettings(**settings)
