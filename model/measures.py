"""How good predicted probabilities are: loss, accuracy, per-class recall, confusion matrix.

Takes probabilities f32[n, K] and labels [n] in 0..K-1. numpy only, sums in float64.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfer.model.errors import DataError

PROBABILITY_FLOOR = 1e-7  # Keras' epsilon: a probability of 0 costs ln(1e7) = 16.1, not infinity


@dataclass(frozen=True)
class Measures:
    """Measures of one model on `num_examples` images.

    `loss` is the mean cross-entropy in nats; `accuracy` the share of images whose most probable class
    is the label (the first of equal ones); `per_class_recall[k]` the share of class k that was found,
    None where no image has that label; `confusion[i][j]` how many images of class i were taken for j.
    """

    num_examples: int
    loss: float
    accuracy: float
    per_class_recall: tuple[float | None, ...]
    confusion: tuple[tuple[int, ...], ...]


def measure(probabilities: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]]) -> Measures:
    """Measures of probabilities [n, K] against labels [n].

    A probability that is NaN, as a diverged model gives, counts as 0, so measures are always finite. Raises
    DataError for no examples, for shapes that differ, and for a label outside 0..K-1.
    """
    _check(probabilities, labels)
    probabilities = np.nan_to_num(probabilities, nan=0.0)
    num_examples, num_classes = probabilities.shape
    chosen = probabilities[np.arange(num_examples), labels].astype(np.float64)
    confusion = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(confusion, (labels, probabilities.argmax(axis=1)), 1)
    totals, hits = confusion.sum(axis=1).tolist(), confusion.diagonal().tolist()
    return Measures(
        num_examples=num_examples,
        loss=float(-np.log(np.clip(chosen, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)).mean()),
        accuracy=sum(hits) / num_examples,
        per_class_recall=tuple(
            hit / total if total else None for hit, total in zip(hits, totals, strict=True)
        ),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
    )


def _check(probabilities: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]]) -> None:
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1]:
        raise DataError(
            f"expected probabilities [n, K] and labels [n]; received {probabilities.shape} and {labels.shape}"
        )
    if not len(labels):
        raise DataError("expected at least one example to measure; received none")
    if labels.min() < 0 or labels.max() >= probabilities.shape[1]:
        raise DataError(
            f"expected labels in 0..{probabilities.shape[1] - 1}; "
            f"received {int(labels.min())}..{int(labels.max())}"
        )
