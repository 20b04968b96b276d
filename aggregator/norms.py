"""How far updates lie from their parent version: Euclidean norms of their steps, in float64.

Weights and BatchNorm statistics are measured apart, as their scales have nothing to do with each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low

import numpy as np
from numpy.typing import NDArray

from fedfer.aggregator.strategies.blocks import blocks
from fedfer.aggregator.update_reader import WeightedFile
from fedfer.export.contract import Contract, Role


@dataclass(frozen=True)
class Norms:
    """Of one update, or the round's medians: |update - parent| over all trainable weights, and over all
    statistics."""

    weights: float
    statistics: float


def delta_norms(parent: Path, ordered: Sequence[WeightedFile], contract: Contract) -> list[Norms]:
    """Norms of each update's step, in the given order; stale updates as they would move the parent.

    Raises CheckpointError.
    """
    squares: dict[Role, NDArray[np.float64]] = {
        role: np.zeros(len(ordered)) for role in ("trainable", "statistic")
    }
    for block in blocks(parent, ordered, contract, ("trainable", "statistic")):
        squares[block.weight.role] += np.square(block.deltas()).sum(axis=1)
    roots = np.sqrt([squares["trainable"], squares["statistic"]])
    return [Norms(weights, statistics) for weights, statistics in roots.T.tolist()]


def median_norms(norms: Sequence[Norms]) -> Norms:
    """The round's medians (of an even number the lower one: a large value never pulls it up)."""
    return Norms(median_low(n.weights for n in norms), median_low(n.statistics for n in norms))
