"""Losses whose values and gradients are compared: settings, the model's end, data. No TensorFlow."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfer.export.loss_settings import BINARY, DENSE, SPARSE, SQUARED, LossSettings

NUM_EXAMPLES = 6


@dataclass(frozen=True)
class LossCase:
    """`end` is what makes outputs f32[B,K] of `x`: softmax, sigmoid, nothing, or shares (x / sum of x)."""

    name: str
    settings: LossSettings
    end: str
    x: NDArray[np.float32]
    targets: NDArray[Any]


def all_cases() -> list[LossCase]:
    """The same at every call."""
    rng = np.random.default_rng(8)
    x = rng.normal(size=(NUM_EXAMPLES, 4)).astype(np.float32) * 3
    x[0] = [90, -90, 0, 5]  # probabilities of exactly 0 and 1 where nobody takes care
    classes = rng.integers(0, 4, NUM_EXAMPLES).astype(np.int32)
    soft = rng.dirichlet([0.5] * 4, NUM_EXAMPLES).astype(np.float32)
    yes = rng.integers(0, 2, (NUM_EXAMPLES, 4)).astype(np.float32)
    positive = rng.uniform(0.1, 2, (NUM_EXAMPLES, 4)).astype(np.float32)
    by_class = (0.5, 1.0, 2.0, 4.0)
    return [
        *(
            LossCase(f"{name}_{word}", LossSettings(name, end == "nothing", **more), end, x, targets)
            for name, targets in ((SPARSE, classes), (DENSE, soft))
            for end in ("softmax", "nothing")
            for word, more in (
                (end, {}),
                (f"{end}_smoothed", {"label_smoothing": 0.1}),
                (f"{end}_weighted", {"class_weights": by_class}),
                (f"{end}_both", {"label_smoothing": 0.2, "class_weights": by_class}),
            )
        ),
        LossCase("sparse_shares", LossSettings(SPARSE), "shares", positive, classes),
        LossCase("dense_shares", LossSettings(DENSE), "shares", positive, soft),
        LossCase(
            "dense_shares_weighted", LossSettings(DENSE, class_weights=by_class), "shares", positive, soft
        ),
        *(
            LossCase(
                f"binary_{end}_{k}_{s}", LossSettings(BINARY, end == "nothing", s), end, x[:, :k], yes[:, :k]
            )
            for end in ("sigmoid", "nothing")
            for k in (1, 4)
            for s in (0.0, 0.1)
        ),
        # Said to end in logits, but for a softmax behind them: Keras trains on what that was given.
        LossCase("sparse_softmax_of_logits", LossSettings(SPARSE, from_logits=True), "softmax", x, classes),
        LossCase("binary_sigmoid_of_logits", LossSettings(BINARY, True), "sigmoid", x[:, :1], yes[:, :1]),
        LossCase("binary_shares", LossSettings(BINARY), "shares", positive, yes),
        LossCase(
            "binary_labels_weighted",
            LossSettings(BINARY, class_weights=(1.0, 3.0)),
            "sigmoid",
            x[:, :1],
            (classes % 2).astype(np.int32),
        ),
        LossCase("squared", LossSettings(SQUARED), "nothing", x, soft * 10),
        LossCase("squared_1", LossSettings(SQUARED), "nothing", x[:, 1:2], soft[:, :1]),
    ]
