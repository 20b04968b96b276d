"""Local training as a phone does it: restore once, E epochs in batches of B, save.

Each epoch visits every image once, in a shuffled order; the last, smaller batch trains as it is. Order
and dropout seeds depend on (fleet seed, device, round, epoch or step) and nothing else, so the same seed
gives the same weights bit for bit, whatever the engine ran before and in whichever process.
"""

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedfer.export.checkpoint import Weights
from fedfer.export.engine import Engine
from fedfer.model.data import LabelledImages, check_fit, to_float
from fedfer.model.errors import CheckpointError

# First words of the entropy, so that the two kinds of random numbers never share a stream.
_SHUFFLE, _DROPOUT = 1, 2


@dataclass(frozen=True)
class TrainingPlan:
    """What the server asks of a device in a round; `proximal_mu` is FedProx's, 0 for none."""

    local_epochs: int
    batch_size: int
    learning_rate: float
    proximal_mu: float = 0.0


@dataclass(frozen=True)
class Seeds:
    """Where a task's random numbers come from: one task is one device in one round."""

    fleet: int
    device: int
    round: int

    def shuffle(self, epoch: int) -> np.random.Generator:
        """The order of the images in this epoch (0, 1, ...)."""
        return np.random.Generator(np.random.PCG64(self._sequence(_SHUFFLE, epoch)))

    def dropout(self, step: int) -> int:
        """Seed in 0..2**31-1 of the dropout in this step (0, 1, ... over all epochs of the task)."""
        return int(self._sequence(_DROPOUT, step).generate_state(1, np.uint32)[0] >> 1)

    def _sequence(self, kind: int, counter: int) -> np.random.SeedSequence:
        return np.random.SeedSequence((kind, self.device, self.round, counter, self.fleet))


@dataclass(frozen=True)
class LocalResult:
    """What a task leaves: loss and accuracy are means over the images in the last epoch, each taken
    before its batch's step; `train_sec` is wall-clock time with restore and save."""

    weights: Weights
    num_examples: int
    loss: float
    accuracy: float
    train_sec: float


def epoch_batches(num_examples: int, batch_size: int, rng: np.random.Generator) -> list[NDArray[np.intp]]:
    """A permutation of 0..num_examples-1 cut into batches; only the last may be smaller."""
    order = rng.permutation(num_examples)
    return [order[start : start + batch_size] for start in range(0, num_examples, batch_size)]


def train_locally(
    model: Engine, weights: Weights, examples: LabelledImages, plan: TrainingPlan, seeds: Seeds
) -> LocalResult:
    """Trains `weights` on `examples`.

    Raises DataError for examples that do not fit the model, ModelFileError for a proximal_mu that the file
    has no input for, CheckpointError (`not_finite`) when training
    diverged, InterpreterError.
    """
    check_fit(examples, model.contract.image_shape, len(model.contract.labels))
    started_at = time.perf_counter()
    model.restore(weights)
    step = 0
    for epoch in range(plan.local_epochs):
        loss_sum = accuracy_sum = 0.0
        for batch in epoch_batches(len(examples), plan.batch_size, seeds.shuffle(epoch)):
            result = model.train(
                to_float(examples.images[batch], model.contract.pixel_divisor),
                examples.labels[batch],
                learning_rate=plan.learning_rate,
                seed=seeds.dropout(step),
                proximal_mu=plan.proximal_mu,
            )
            loss_sum += result.loss * len(batch)
            accuracy_sum += result.accuracy * len(batch)
            step += 1
    trained = model.save()
    _check_finite(trained, loss_sum, plan, seeds)
    return LocalResult(
        weights=trained,
        num_examples=len(examples),
        loss=loss_sum / len(examples),
        accuracy=min(1.0, accuracy_sum / len(examples)),  # a float32 mean can round to just above 1
        train_sec=time.perf_counter() - started_at,
    )


def _check_finite(weights: Weights, loss_sum: float, plan: TrainingPlan, seeds: Seeds) -> None:
    """A diverged update would be refused after an upload of megabytes: better said here."""
    if not np.isfinite(loss_sum) or not all(np.isfinite(tensor).all() for tensor in weights.values()):
        raise CheckpointError(
            f"training diverged in round {seeds.round}: loss or weights are no longer finite; "
            f"lower the server's learning rate (now {plan.learning_rate:g})",
            code="not_finite",
        )
