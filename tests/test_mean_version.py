"""The mean of several versions, and which versions are the last."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedfer.cli.mean_version import last_committed, line_of, mean_of


def tensors(*values: float) -> dict[str, NDArray[np.float32]]:
    return {"a": np.array(values, np.float32), "b": np.full((2, 2), values[0], np.float32)}


def test_a_mean_by_hand() -> None:
    mean = mean_of(iter([tensors(1, 2), tensors(3, 5), tensors(5, 2)]))
    assert mean["a"].tolist() == [3, 3]
    assert mean["b"].tolist() == [[3, 3], [3, 3]]
    assert {tensor.dtype for tensor in mean.values()} == {np.dtype(np.float32)}


def test_it_is_rounded_once() -> None:
    """In float32 the small ones would be lost beside the large one."""
    values = [2.0**25, 1.0, 1.0, 1.0, 1.0]
    assert mean_of(tensors(value) for value in values)["a"].tolist() == [np.float32((2**25 + 4) / 5)]


def test_the_last_that_were_committed() -> None:
    outcomes = ["committed", "committed", "rolled_back", "committed", "no_updates", "committed"]
    rounds = [{"round": number, "outcome": outcome} for number, outcome in enumerate(outcomes)]
    assert [done["round"] for done in last_committed(rounds, 2)] == [3, 5]
    assert [done["round"] for done in last_committed(rounds, 9)] == [1, 3, 5]


VERSIONS = [  # after round 3 the run went back to round 1's version
    {"round": 0, "weights": "w0", "parent_round": None},
    {"round": 1, "weights": "w1", "parent_round": 0},
    {"round": 3, "weights": "w3", "parent_round": 1},
    {"round": 4, "weights": "w4", "parent_round": 1},
]


@pytest.mark.parametrize(
    ("weights", "count", "rounds"),
    [
        ("w4", 9, [1, 4]),
        ("w4", 1, [4]),
        ("w3", 2, [1, 3]),
        ("w0", 9, []),
        ("w9", 9, []),
        (None, 9, []),
    ],
)
def test_the_line_of_a_version(weights: str | None, count: int, rounds: list[int]) -> None:
    assert [version["round"] for version in line_of(VERSIONS, weights, count)] == rounds


@pytest.mark.parametrize("parent", [1, 2, 3, "x", [], None, {}, 0.5])
def test_a_server_that_tells_nonsense(parent: object) -> None:
    """No endless line, no traceback."""
    versions: list[dict[str, Any]] = [
        {"round": 2, "weights": "a", "parent_round": parent},
        {"round": [], "weights": "a", "parent_round": 2},
        {"weights": "a"},
    ]
    assert [version["round"] for version in line_of(versions, "a", 9)] == [2]
