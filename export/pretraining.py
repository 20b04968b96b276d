"""Training a Keras model in one place, before any phone: augmentation, early stopping, resuming.

After every epoch the whole state (weights, optimizer, dropout's generators, history) is one file, renamed
into place: a training that was killed goes on from its last whole epoch. Order and augmentation of an epoch
are drawn from (seed, epoch) alone: what comes after a resume is what would have come without one.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import safetensors
import safetensors.numpy
import tensorflow as tf
from numpy.typing import NDArray

from fedfer.export.keras_training import keras_optimizer
from fedfer.export.loss_settings import LossSettings
from fedfer.export.losses import keras_loss, predictions
from fedfer.export.optimizer_settings import OptimizerSettings
from fedfer.export.targets import encode_targets
from fedfer.model.augmentation import Augmentation, augment
from fedfer.model.data import PIXEL_DIVISOR, LabelledImages, to_float
from fedfer.model.errors import DataError, UsageError
from fedfer.model.measures import Measures, measure

EVALUATION_BATCH_SIZE = 256
_ORDER = 3  # first word of the entropy, so that no other kind of random numbers shares its stream


@dataclass(frozen=True)
class PretrainingPlan:
    """`patience`: epochs without a better validation loss before the training ends; 0 never ends it.
    `augmentation` is for images; `pixel_divisor` is the contract's."""

    epochs: int
    batch_size: int
    learning_rate: float
    optimizer: OptimizerSettings
    loss: LossSettings
    augmentation: Augmentation | None
    patience: int
    seed: int
    pixel_divisor: float = PIXEL_DIVISOR

    def __post_init__(self) -> None:
        """Raises UsageError."""
        if self.epochs < 1 or self.batch_size < 1 or self.patience < 0 or self.seed < 0:
            raise UsageError("expected epochs and batch size of at least 1, patience and seed of at least 0")
        if not 0 < self.learning_rate < math.inf:
            raise UsageError(f"expected a learning rate above 0; received {self.learning_rate}")


@dataclass(frozen=True)
class Epoch:
    """Means over the training images as they were seen, and measures of the validation images after it."""

    number: int
    loss: float
    accuracy: float
    validation_loss: float
    validation_accuracy: float
    duration_sec: float


@dataclass(frozen=True)
class Progress:
    """`best` is the number of the epoch with the least validation loss; `left_sec` the time to go, if no
    early stopping comes before."""

    history: tuple[Epoch, ...]
    best: int
    left_sec: float


class Pretraining:
    """`save_best` is called after each epoch that was better than all before it, the model being as it is;
    `report` after each epoch; `tick(batches done, batches)` within it."""

    def __init__(self, model: keras.Model, plan: PretrainingPlan, state: Path, about: dict[str, Any]) -> None:
        """Takes up what `state` holds, if it is there. `about` says what is trained on what: a state of
        something else is refused. Raises UsageError, DataError."""
        self.model = model
        self.plan = plan
        self.history: list[Epoch] = []
        self._state = state
        self._target = plan.loss.target(model.output_shape[-1])
        same = {key: value for key, value in asdict(plan).items() if key not in ("epochs", "patience")}
        self._about = json.dumps({**about, **same}, sort_keys=True)
        self._optimizer = keras_optimizer(plan.optimizer, plan.learning_rate)
        self._optimizer.build(model.trainable_variables)
        self._step = tf.function(self._train_step, reduce_retracing=True)
        if state.exists():
            self._load()

    @property
    def best(self) -> int:
        """Number of the best epoch so far, 0 before the first."""
        return min(self.history, key=lambda epoch: epoch.validation_loss).number if self.history else 0

    @property
    def finished(self) -> bool:
        done = len(self.history)
        return done >= self.plan.epochs or 0 < self.plan.patience <= done - self.best

    def run(
        self,
        train: LabelledImages,
        validation: LabelledImages,
        save_best: Callable[[], None],
        report: Callable[[Progress], None],
        tick: Callable[[int, int], None] = lambda done, of: None,
    ) -> Progress:
        """Trains to the end. The model is left as it is after the last epoch."""
        while not self.finished:
            self._epoch(train, validation, tick)
            if self.best == len(self.history):
                save_best()
            self._save()
            report(self.progress())
        return self.progress()

    def progress(self) -> Progress:
        mean_sec = float(np.mean([epoch.duration_sec for epoch in self.history])) if self.history else 0.0
        left = 0 if self.finished else self.plan.epochs - len(self.history)
        return Progress(tuple(self.history), self.best, mean_sec * left)

    def _epoch(
        self, train: LabelledImages, validation: LabelledImages, tick: Callable[[int, int], None]
    ) -> None:
        number, started_at = len(self.history) + 1, time.perf_counter()
        loss_sum = hits = done = 0.0
        num_batches = -(-len(train) // self.plan.batch_size)
        for place, (images, labels) in enumerate(epoch_batches(train, self.plan, number), start=1):
            targets = encode_targets(labels, self._target)
            loss, outputs = self._step(tf.constant(images), tf.constant(targets))
            loss_sum += float(loss) * len(labels)
            hits += float(np.sum(np.argmax(outputs, axis=-1) == labels))
            done += len(labels)
            tick(place, num_batches)
        seen = evaluate_keras(self.model, validation, self.plan)
        if not np.isfinite(loss_sum):
            raise UsageError(f"training diverged in epoch {number}: lower the learning rate")
        self.history.append(
            Epoch(
                number,
                loss_sum / done,
                hits / done,
                seen.loss,
                seen.accuracy,
                time.perf_counter() - started_at,
            )
        )

    def _train_step(self, images: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            outputs = self.model(images, training=True)
            loss = tf.add_n([keras_loss(outputs, targets, self.plan.loss), *self.model.losses])
        variables = self.model.trainable_variables
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        self._optimizer.apply(gradients, variables)
        return loss, predictions(outputs, self.plan.loss)

    def _variables(self) -> dict[str, Any]:
        """Everything that a step changes, by a name of its own."""
        both = {"model": self.model.variables, "optimizer": self._optimizer.variables}
        return {f"{kind}{i}": v for kind, variables in both.items() for i, v in enumerate(variables)}

    def _save(self) -> None:
        history = json.dumps([asdict(epoch) for epoch in self.history])
        tensors = {name: np.asarray(variable) for name, variable in self._variables().items()}
        part = self._state.with_name(self._state.name + ".part")
        part.write_bytes(safetensors.numpy.save(tensors, {"about": self._about, "history": history}))
        part.replace(self._state)

    def _load(self) -> None:
        variables = self._variables()
        try:
            with safetensors.safe_open(self._state, framework="numpy") as file:
                about = (file.metadata() or {}).get("about")
                if about != self._about:
                    raise UsageError(
                        f"{self._state} is the state of another training (model, data or settings differ); "
                        "delete it to start anew, or choose another --output"
                    )
                tensors = {name: file.get_tensor(name) for name in variables}
                history = [Epoch(**epoch) for epoch in json.loads(file.metadata()["history"])]
            for name, variable in variables.items():
                variable.assign(tensors[name])
        except (safetensors.SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
            raise DataError(f"cannot go on from {self._state} ({error}); delete it to start anew") from None
        self.history = history


def epoch_batches(
    data: LabelledImages, plan: PretrainingPlan, epoch: int
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int32]]]:
    """Batches of images f32[B,H,W,C] in 0..1, or other inputs f32[B,...], and labels i32[B], each example
    once, in an order and augmented as (seed, epoch) say; the last batch may be smaller."""
    rng = np.random.default_rng((_ORDER, plan.seed, epoch))
    order = rng.permutation(len(data))
    for start in range(0, len(data), plan.batch_size):
        batch = data.take(order[start : start + plan.batch_size])
        images = to_float(batch.images, plan.pixel_divisor)
        if plan.augmentation is not None:
            images = augment(images, plan.augmentation, rng)
        yield images, batch.labels.astype(np.int32)


def evaluate_keras(model: keras.Model, data: LabelledImages, plan: PretrainingPlan) -> Measures:
    """Measures of the Keras model itself on `data`."""
    starts = range(0, len(data), EVALUATION_BATCH_SIZE)
    batches = (to_float(data.images[at : at + EVALUATION_BATCH_SIZE], plan.pixel_divisor) for at in starts)
    parts = [np.asarray(predictions(model(batch), plan.loss)) for batch in batches]
    return measure(np.concatenate(parts), data.labels)
