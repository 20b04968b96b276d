"""What a fresh export must show before it is written: run in a stock runtime, compared with Keras.

`run_in_runtime` is for a process without TensorFlow (fedfer.export.isolation); it returns plain arrays, which
fedfer.export.verify, on TensorFlow's side, holds against Keras.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfer.export.checkpoint import Weights
from fedfer.export.runtime import Model

NOTHING = 1e-5


@dataclass(frozen=True)
class Observed:
    """What the runtime computed: predictions before, loss and weights after one `train`, `state` with what
    the optimizer remembers of it (one from the start), and whether
    `save` -> `restore` (of noise) -> `restore` -> `save` gave the same bits; `repeats_exactly` and
    `resumes_exactly`: whether `train` from the start did so, and from what `save_state` gave in between."""

    runtime: str
    initial: Weights
    predictions: NDArray[np.float32]
    loss: float
    trained: Weights
    state: Weights
    small_batch_loss: float
    round_trip_exact: bool
    repeats_exactly: bool
    resumes_exactly: bool


def run_in_runtime(
    content: bytes,
    runtime: str,
    images: NDArray[np.float32],
    labels: NDArray[Any],
    learning_rate: float,
    seed: int,
) -> Observed:
    """Every signature once or more, in this process. Raises ModelFileError, InterpreterError."""
    model = Model(content, runtime=runtime)
    initial = model.save()
    predictions = model.infer(images)
    step: dict[str, Any] = {"learning_rate": learning_rate, "seed": seed}
    loss = model.train(images, labels, **step).loss
    trained = model.save()
    small_batch_loss = model.train(images[:1], labels[:1], **step).loss
    model.restore({name: tensor + np.float32(1) for name, tensor in initial.items()})
    model.restore(initial)
    back = model.save()
    model.train(images, labels, **step)
    again, state = model.save(), model.save_state()
    model.train(images, labels, **step)
    two_steps = model.save()
    model.restore_state(initial, state)
    model.train(images, labels, **step)
    return Observed(
        runtime=f"{model.runtime} {model.runtime_version}",
        initial=initial,
        predictions=predictions,
        loss=loss,
        trained=trained,
        state=state,
        small_batch_loss=small_batch_loss,
        round_trip_exact=same_bits(initial, back),
        repeats_exactly=same_bits(trained, again),
        resumes_exactly=same_bits(two_steps, model.save()),
    )


def same_bits(a: Weights, b: Weights) -> bool:
    """Whether two sets of weights agree bit for bit."""
    return a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)


def relative_difference(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Largest |a - b| over the largest |b|."""
    largest = float(np.abs(b).max(initial=0.0))
    return float(np.abs(a - b).max(initial=0.0)) / max(largest, 1e-12)


def vector_norm(weights: Weights) -> float:
    """Euclidean norm of all tensors as one vector."""
    return float(np.sqrt(sum(np.square(w, dtype=np.float64).sum() for w in weights.values())))


def vector_difference(a: Weights, b: Weights) -> float:
    """Euclidean norm of a - b over that of b, all tensors as one vector."""
    return vector_norm({name: a[name] - b[name] for name in b}) / max(vector_norm(b), 1e-12)


def tensors_apart(seen: Weights, expected: Weights) -> dict[str, float]:
    """By tensor: the norm of the difference, relative to that of the expected one, or to NOTHING of all of
    them where that is more: what a later BatchNorm removes has a gradient by rounding alone."""
    norms = {name: float(np.linalg.norm(tensor)) for name, tensor in expected.items()}
    least = max(NOTHING * float(np.linalg.norm(list(norms.values()))), 1e-12)
    return {
        name: float(np.linalg.norm(seen[name] - expected[name])) / max(norm, least)
        for name, norm in norms.items()
    }
