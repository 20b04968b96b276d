"""Norm-bounded mean: no update moves the model further than a bound (Sun et al. 2019, "Can You Really
Backdoor Federated Learning?", section 4, norm thresholding):

    x_{t+1} = x_t + 1/n sum_k min(1, bound / |x_k - x_t|) (x_k - x_t)

Not weighted: num_examples is a device's own claim. The bound blunts a scaled update; it does not find a
liar that keeps its size (see the median, the trimmed mean, and Krum for that).

BatchNorm statistics are moved in the same way, by a factor of their own from the round's median norm of
their steps: between the parent's and the update's variance there is no number below 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedfer.aggregator.norms import delta_norms, median_norms
from fedfer.aggregator.strategies.base import Aggregate, Plain, require
from fedfer.aggregator.strategies.blocks import Block, reduced
from fedfer.aggregator.update_reader import WeightedFile, in_order
from fedfer.export.contract import Contract


@dataclass(frozen=True)
class NormBounded(Plain):
    """`max_norm` is the bound for the weights; None means the median norm of the round's updates."""

    name: ClassVar[str] = "norm_bounded"
    max_norm: float | None = None

    def __post_init__(self) -> None:
        valid = self.max_norm is None or self.max_norm > 0
        require(valid, "max_norm", self.max_norm, "a number above 0, or none")

    def aggregate(
        self, parent: Path, updates: Sequence[WeightedFile], state: Path | None, contract: Contract
    ) -> Aggregate:
        ordered = in_order(updates)
        norms = delta_norms(parent, ordered, contract)
        median = median_norms(norms)
        bound = median.weights if self.max_norm is None else self.max_norm
        factors = {
            "trainable": [_factor(n.weights, bound) for n in norms],
            "statistic": [_factor(n.statistics, median.statistics) for n in norms],
        }
        weights = reduced(
            parent,
            ordered,
            contract,
            ("trainable", "statistic"),
            lambda block: _moved(block, factors[block.weight.role]),
        )
        return Aggregate(weights)


def _factor(norm: float, bound: float) -> float:
    return 1.0 if norm <= bound else bound / norm


def _moved(block: Block, factors: Sequence[float]) -> NDArray[np.float64]:
    """f64[b]: mean of (1 - c) parent + c row, which is the formula above without a difference to round."""
    parent, total = block.parent.astype(np.float64), np.zeros(block.parent.size)
    for row, factor in zip(block.rows, factors, strict=True):
        total += (1.0 - factor) * parent + factor * row.astype(np.float64)
    return total / len(factors)
