"""Coordinate-wise trimmed mean: Yin et al. 2018, "Byzantine-Robust Distributed Learning: Towards Optimal
Statistical Rates", definition 2. For every element the largest and the smallest share of the values is left
out and the rest averaged. Holds as long as fewer devices lie than are trimmed on a side.

Not weighted: num_examples is a device's own claim. BatchNorm statistics are averaged by the same rule; the
mean of some variances is a variance.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fedfer.aggregator.strategies.base import Aggregate, Plain, require
from fedfer.aggregator.strategies.blocks import trimmed
from fedfer.aggregator.update_reader import WeightedFile, in_order
from fedfer.export.contract import Contract


@dataclass(frozen=True)
class TrimmedMean(Plain):
    """`trim_fraction` is trimmed on either side, rounded up to whole updates, but always leaves the middle
    one or two: with 3 updates and 0.1 it is the median, with 1 or 2 the plain mean."""

    name: ClassVar[str] = "trimmed_mean"
    trim_fraction: float = 0.1

    def __post_init__(self) -> None:
        require(0 <= self.trim_fraction < 0.5, "trim_fraction", self.trim_fraction, "0 or more, below 0.5")

    def num_trimmed(self, num_updates: int) -> int:
        """Updates left out on either side."""
        return min(math.ceil(self.trim_fraction * num_updates), (num_updates - 1) // 2)

    def aggregate(
        self, parent: Path, updates: Sequence[WeightedFile], state: Path | None, contract: Contract
    ) -> Aggregate:
        ordered = in_order(updates)
        num_trimmed = self.num_trimmed(len(ordered))
        return Aggregate(trimmed(parent, ordered, contract, ("trainable", "statistic"), num_trimmed))
