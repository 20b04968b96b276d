"""Krum and multi-Krum: Blanchard et al. 2017, "Machine Learning with Adversaries: Byzantine Tolerant
Gradient Descent".

With n updates of which f may lie, an update's score is the sum of its squared distances to the n - f - 2
nearest others. Krum takes the update with the smallest score as the next version; multi-Krum the mean of
the m with the smallest. Equal scores: the first in canonical order. Needs n >= 2f + 3: a round with fewer
is refused, not averaged some other way, since that would be the attacker's gain. Of a round that had as many,
gates may have turned k away; then f is as large as what is left allows, (n - k - 3) / 2. Since
n >= 2f + 3 that is at least f - k: if those that were turned away lied, no liar is borne less than before.

Distances are those of the trainable weights. BatchNorm statistics, whose scale is another, are averaged
over all updates without the f largest and the f smallest values of each element. Not weighted:
num_examples is a device's own claim.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from fedfer.aggregator.average import weighted_mean
from fedfer.aggregator.strategies.base import Aggregate, Plain, require, require_updates
from fedfer.aggregator.strategies.blocks import blocks, trimmed
from fedfer.aggregator.update_reader import WeightedFile, in_order
from fedfer.export.contract import Contract

MAX_BYZANTINE = 4_998  # 2f + 3 <= 10,000, the largest round


@dataclass(frozen=True)
class Krum(Plain):
    """`num_byzantine` is f."""

    name: ClassVar[str] = "krum"
    num_byzantine: int = 1

    def __post_init__(self) -> None:
        valid = 0 <= self.num_byzantine <= MAX_BYZANTINE
        require(valid, "num_byzantine", self.num_byzantine, f"0 to {MAX_BYZANTINE}")

    @property
    def min_updates(self) -> int:
        return 2 * self.num_byzantine + 3

    def after_gates(self, num_left: int) -> Self:
        return replace(self, num_byzantine=min(self.num_byzantine, max(0, (num_left - 3) // 2)))

    def num_kept(self, num_updates: int) -> int:
        """How many updates make the next version."""
        return 1

    def aggregate(
        self, parent: Path, updates: Sequence[WeightedFile], state: Path | None, contract: Contract
    ) -> Aggregate:
        ordered = in_order(updates)
        require_updates(self, ordered)
        distances = squared_distances(parent, ordered, contract)
        best = np.argsort(krum_scores(distances, self.num_byzantine), kind="stable")
        kept = [replace(ordered[i], num_examples=1) for i in sorted(best[: self.num_kept(len(ordered))])]
        weights = weighted_mean(kept, contract, parent)
        statistics = trimmed(parent, ordered, contract, ("statistic",), self.num_byzantine)
        return Aggregate(weights | statistics)


@dataclass(frozen=True)
class MultiKrum(Krum):
    """`num_selected` is m, at most n - f - 2; None means all of n - f - 2."""

    name: ClassVar[str] = "multi_krum"
    num_selected: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        valid = self.num_selected is None or 1 <= self.num_selected <= 10_000
        require(valid, "num_selected", self.num_selected, "1 to 10000")

    @property
    def min_updates(self) -> int:
        return max(2 * self.num_byzantine + 3, (self.num_selected or 1) + self.num_byzantine + 2)

    def after_gates(self, num_left: int) -> Self:
        fewer = super().after_gates(num_left)
        if self.num_selected is None:
            return fewer
        return replace(fewer, num_selected=max(1, min(self.num_selected, fewer.most_kept(num_left))))

    def most_kept(self, num_updates: int) -> int:
        """n - f - 2."""
        return num_updates - self.num_byzantine - 2

    def num_kept(self, num_updates: int) -> int:
        return self.num_selected or self.most_kept(num_updates)


def squared_distances(
    parent: Path, ordered: Sequence[WeightedFile], contract: Contract
) -> NDArray[np.float64]:
    """f64[n, n]: squared Euclidean distances of the updates' trainable weights, from the Gram matrix of
    their steps away from the parent: |a - b|^2 = a.a + b.b - 2 a.b, summed block by block."""
    gram = np.zeros((len(ordered), len(ordered)))
    for block in blocks(parent, ordered, contract, ("trainable",)):
        deltas = block.deltas()
        gram += deltas @ deltas.T
    lengths = gram.diagonal()
    distances: NDArray[np.float64] = np.maximum(lengths[:, None] + lengths[None, :] - 2 * gram, 0.0)
    np.fill_diagonal(distances, 0.0)
    return distances


def krum_scores(distances: NDArray[np.float64], num_byzantine: int) -> NDArray[np.float64]:
    """f64[n]: for each update the sum of its n - f - 2 smallest squared distances to others."""
    num_nearest = len(distances) - num_byzantine - 2
    nearest_first = np.sort(distances, axis=1)[:, 1:]  # the first is its distance to itself, 0
    scores: NDArray[np.float64] = nearest_first[:, :num_nearest].sum(axis=1)
    return scores
