"""Local training as a phone does it: restore once, E epochs in batches of B, save.

Each epoch visits every image once, in a shuffled order; the last, smaller batch trains as it is. Order
and dropout seeds depend on (fleet seed, device, round, epoch or step) and nothing else, so the same seed
gives the same weights bit for bit, whatever the engine ran before and in whichever process.
"""

import hashlib
import json
import time
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedfer.android_stub.progress import Position, Progress
from fedfer.export.checkpoint import Weights
from fedfer.export.engine import Engine
from fedfer.model.data import LabelledImages, check_fit, to_float
from fedfer.model.errors import CheckpointError

# First words of the entropy, so that the two kinds of random numbers never share a stream.
_SHUFFLE, _DROPOUT = 1, 2
# Of a training's time, for keeping its progress. Every step of a large network costs less; of a small one
# with large moments it is every few steps, and what is done again after a kill takes a few steps' time.
MAX_KEEPING_SHARE = 0.05


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
    before its batch's step; `train_sec` is wall-clock time with restore and save; of its
    `num_steps` an earlier process had done `resumed_at`."""

    weights: Weights
    num_examples: int
    loss: float
    accuracy: float
    train_sec: float
    num_steps: int
    resumed_at: int = 0


def epoch_batches(num_examples: int, batch_size: int, rng: np.random.Generator) -> list[NDArray[np.intp]]:
    """A permutation of 0..num_examples-1 cut into batches; only the last may be smaller."""
    order = rng.permutation(num_examples)
    return [order[start : start + batch_size] for start in range(0, num_examples, batch_size)]


def task_name(
    model: str, runtime: str, base_weights: str, plan: TrainingPlan, seeds: Seeds, examples: LabelledImages
) -> bytes:
    """32 bytes that name a task: all that decides which weights come of it. `model` and `base_weights` are
    sha256; `runtime` is its name with version."""
    told = {"model": model, "runtime": runtime, "base": base_weights, **asdict(plan), **asdict(seeds)}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for array in (examples.images, examples.labels):
        digest.update(repr((array.shape, array.dtype.str)).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.digest()


def train_locally(
    model: Engine,
    weights: Weights,
    examples: LabelledImages,
    plan: TrainingPlan,
    seeds: Seeds,
    progress: Progress | None = None,
) -> LocalResult:
    """Trains `weights` on `examples`; with `progress` of this task, from the last step
    that is kept there, keeping further ones as MAX_KEEPING_SHARE says. The result has the same bits.

    Raises DataError for examples that do not fit the model, ModelFileError for a proximal_mu that the file
    has no input for, CheckpointError (`not_finite`) when training diverged, InterpreterError.
    """
    check_fit(examples, model.contract.image_shape, len(model.contract.labels))
    started_at = time.perf_counter()
    begun = at = _begin(model, weights, progress)
    keeping_sec = 0.0
    steps_an_epoch = -(-len(examples) // plan.batch_size)
    num_steps = plan.local_epochs * steps_an_epoch
    for epoch in range(begun.step // steps_an_epoch, plan.local_epochs):
        batches = epoch_batches(len(examples), plan.batch_size, seeds.shuffle(epoch))
        for number in range(at.step % steps_an_epoch, steps_an_epoch):
            before = at if number else replace(at, loss_sum=0.0, accuracy_sum=0.0)
            at = _step(model, examples.take(batches[number]), plan, seeds, before)
            now = time.perf_counter()
            is_due = keeping_sec <= MAX_KEEPING_SHARE * (now - started_at) or at.step == num_steps
            if progress is not None and is_due:
                at = replace(at, train_sec=begun.train_sec + now - started_at)
                progress.keep(at, model.save_state())
                keeping_sec += time.perf_counter() - now
    trained = model.save()
    _check_finite(trained, at.loss_sum, plan, seeds)
    return LocalResult(
        weights=trained,
        num_examples=len(examples),
        loss=at.loss_sum / len(examples),
        accuracy=min(1.0, at.accuracy_sum / len(examples)),  # a float32 mean can round to just above 1
        train_sec=begun.train_sec + time.perf_counter() - started_at,
        num_steps=num_steps,
        resumed_at=begun.step,
    )


def _begin(model: Engine, weights: Weights, progress: Progress | None) -> Position:
    """The engine as it was after the last step that is kept, or at the start."""
    kept = None if progress is None else progress.last()
    if kept is None:
        model.restore(weights)
        return Position()
    position, state = kept
    model.restore_state(weights, state)
    return position


def _step(
    model: Engine, batch: LabelledImages, plan: TrainingPlan, seeds: Seeds, before: Position
) -> Position:
    """One step on this batch, and where the task is after it."""
    result = model.train(
        to_float(batch.images, model.contract.pixel_divisor),
        batch.labels,
        learning_rate=plan.learning_rate,
        seed=seeds.dropout(before.step),
        proximal_mu=plan.proximal_mu,
    )
    return replace(
        before,
        step=before.step + 1,
        loss_sum=before.loss_sum + result.loss * len(batch),
        accuracy_sum=before.accuracy_sum + result.accuracy * len(batch),
    )


def _check_finite(weights: Weights, loss_sum: float, plan: TrainingPlan, seeds: Seeds) -> None:
    """A diverged update would be refused after an upload of megabytes: better said here."""
    if not np.isfinite(loss_sum) or not all(np.isfinite(tensor).all() for tensor in weights.values()):
        raise CheckpointError(
            f"training diverged in round {seeds.round}: loss or weights are no longer finite; "
            f"lower the server's learning rate (now {plan.learning_rate:g})",
            code="not_finite",
        )
