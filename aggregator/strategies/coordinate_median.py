"""Coordinate-wise median: Yin et al. 2018, "Byzantine-Robust Distributed Learning: Towards Optimal
Statistical Rates", definition 1. Holds as long as fewer than half of the devices lie.

Not weighted: num_examples is a device's own claim. BatchNorm statistics too are the mean of the middle one
or two values; the mean of some variances is a variance.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fedfer.aggregator.strategies.base import Aggregate, Plain
from fedfer.aggregator.strategies.blocks import trimmed
from fedfer.aggregator.update_reader import WeightedFile, in_order
from fedfer.export.contract import Contract


@dataclass(frozen=True)
class CoordinateMedian(Plain):
    """With an even number of updates the mean of the two in the middle; with 1 or 2 the plain mean."""

    name: ClassVar[str] = "coordinate_median"

    def aggregate(
        self, parent: Path, updates: Sequence[WeightedFile], state: Path | None, contract: Contract
    ) -> Aggregate:
        ordered = in_order(updates)
        num_trimmed = (len(ordered) - 1) // 2
        return Aggregate(trimmed(parent, ordered, contract, ("trainable", "statistic"), num_trimmed))
