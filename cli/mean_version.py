"""The mean of a run's last versions, as a model of its own.

Where devices differ, each version leans towards whoever took part last; what the last few have in common is
better than any of them (docs/results.md). Averaging along a line of training: Polyak and Juditsky 1992;
Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima and Better Generalization".
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfer.export.checkpoint import Weights


def mean_of(checkpoints: Iterable[Weights]) -> Weights:
    """Element by element, BatchNorm's statistics too, in float64 and rounded to float32 once; one checkpoint
    and one sum are in memory. Expects one at least."""
    sums, count = dict[str, NDArray[np.float64]](), 0
    for weights in checkpoints:
        count += 1
        for name, tensor in weights.items():
            sums[name] = sums[name] + tensor if name in sums else tensor.astype(np.float64)
    return {name: (total / count).astype(np.float32) for name, total in sums.items()}


def last_committed(rounds: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """The last rounds of a simulation's record that made a version, oldest first; the initial one is none."""
    made = [done for done in rounds if done["round"] > 0 and done["outcome"] == "committed"]
    return made[-count:]


def line_of(versions: Sequence[Mapping[str, Any]], weights: object, count: int) -> list[Mapping[str, Any]]:
    """The last `count` versions up to the one with these weights, oldest first, as `GET .../versions` tells
    them: what was rolled back is not among them, and the initial one is none that training made."""
    by_round = {version.get("round"): version for version in versions if _is_trained(version)}
    newest = [version for version in by_round.values() if version.get("weights") == weights]
    line, version = list[Mapping[str, Any]](), newest[-1] if newest else None
    while version is not None and len(line) < count:
        line.append(version)
        parent = version.get("parent_round")
        is_older = isinstance(parent, int) and parent < version["round"]
        version = by_round.get(parent) if is_older else None
    return line[::-1]


def _is_trained(version: Mapping[str, Any]) -> bool:
    number = version.get("round")
    return isinstance(number, int) and number > 0
