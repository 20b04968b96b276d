"""What a training minimises, as plain data: the loss, its settings, its targets, its metric.

B is the batch size, K the number of the model's outputs for an example. No TensorFlow here; the graphs are
in fedfer.export.losses.

    loss                              targets of `train`     metric
    sparse_categorical_crossentropy   labels i32[B]          accuracy
    categorical_crossentropy          targets f32[B,K]       accuracy (the largest of each)
    binary_crossentropy, K = 1        labels i32[B], 0 or 1  accuracy
    binary_crossentropy, K > 1        targets f32[B,K]       accuracy (each output by itself)
    mean_squared_error                targets f32[B,K]       mean absolute error
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfer.model.errors import DataError, UsageError

SPARSE, DENSE = "sparse_categorical_crossentropy", "categorical_crossentropy"
BINARY, SQUARED = "binary_crossentropy", "mean_squared_error"
LOSSES = (SPARSE, DENSE, BINARY, SQUARED)
MAX_CLASS_WEIGHTS_BYTES = 2**20


@dataclass(frozen=True)
class TargetSpec:
    """The input of `train` that says what is right: its name, its dtype and its shape after the batch."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class LossSettings:
    """A loss, averaged over the batch as in Keras.

    `from_logits`: the model ends without softmax or sigmoid. `label_smoothing` s: targets become
    (1 - s) * target + s / K (Szegedy et al. 2016, arXiv 1512.00567, section 7), in binary_crossentropy plus
    s / 2. `class_weights`, one a class or none: each example's loss counts so often (Keras's `class_weight`;
    the mean still divides by the number of examples).
    """

    name: str = SPARSE
    from_logits: bool = False
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Raises UsageError for settings that do not fit each other."""
        if self.name not in LOSSES:
            raise UsageError(f"loss {self.name!r} cannot be trained on phones; expected one of {LOSSES}")
        if not 0 <= self.label_smoothing < 1:
            raise UsageError(
                f"expected a label smoothing of at least 0 and below 1; received {self.label_smoothing}"
            )
        if not all(0 < weight < math.inf for weight in self.class_weights):
            raise UsageError(f"expected class weights above 0; received {list(self.class_weights)}")
        if self.name == SQUARED and (self.from_logits or self.label_smoothing or self.class_weights):
            raise UsageError(f"{SQUARED} has no logits, label smoothing or class weights; leave them out")

    @property
    def metric(self) -> str:
        """What `train` reports beside the loss."""
        return "mean_absolute_error" if self.name == SQUARED else "accuracy"

    @property
    def num_classes_of(self) -> "dict[int, int]":
        """Number of classes by number of outputs where that is not the same: one output tells two apart."""
        return {1: 2} if self.name == BINARY else {}

    def target(self, num_outputs: int) -> TargetSpec:
        """What `train` is told of each example, for a model with so many outputs."""
        if self.name == SPARSE or (self.name == BINARY and num_outputs == 1):
            return TargetSpec("labels", "int32", ())
        return TargetSpec("targets", "float32", (num_outputs,))

    def check_outputs(self, num_outputs: int) -> None:
        """Raises UsageError when a model with so many outputs cannot be trained with this loss."""
        if self.name in (SPARSE, DENSE) and num_outputs < 2:
            raise UsageError(
                f"{self.name} needs 2 outputs or more, the model has {num_outputs}; use {BINARY} or {SQUARED}"
            )
        if self.class_weights and self.name == BINARY and num_outputs > 1:
            raise UsageError(f"class weights do not say what to do with {num_outputs} yes-or-no outputs")
        expected = self.num_classes_of.get(num_outputs, num_outputs)
        if self.class_weights and len(self.class_weights) != expected:
            raise UsageError(f"{len(self.class_weights)} class weights; expected {expected}, one a class")


def encode_targets(labels: NDArray[Any], spec: TargetSpec) -> NDArray[Any]:
    """Class numbers [B] as `train` takes them: i32[B], or 1.0 at the class of f32[B,K]. Targets that are
    numbers already, [B,K], pass through as float32. Raises UsageError for shapes that do not fit."""
    if not spec.shape:
        return labels.astype(np.int32)
    (num_outputs,) = spec.shape
    if labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer):
        one_hot: NDArray[np.float32] = np.eye(num_outputs, dtype=np.float32)[labels]
        return one_hot
    if labels.shape[1:] != spec.shape:
        raise UsageError(f"targets {labels.shape}; expected (B, {num_outputs})")
    return labels.astype(np.float32)


def balanced_class_weights(labels: NDArray[Any], num_classes: int) -> tuple[float, ...]:
    """N / (K * n_k) for each class k with n_k of the N examples: every class counts the same altogether, and
    the weights' mean over the examples is 1. Raises DataError for a class without examples."""
    counts = np.bincount(labels, minlength=num_classes)
    if len(counts) != num_classes or not counts.all():
        raise DataError(
            f"examples by class {counts.tolist()}; expected some of each of {num_classes} classes to "
            "balance them by"
        )
    return tuple(len(labels) / (num_classes * int(count)) for count in counts)


def read_class_weights(path: Path, labels: Sequence[str]) -> tuple[float, ...]:
    """From a JSON file: a list of one weight a class, or an object of weights by the class's name. Classes
    that an object leaves out weigh 1. Raises DataError."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CLASS_WEIGHTS_BYTES + 1)
        if len(content) > MAX_CLASS_WEIGHTS_BYTES:
            raise ValueError(f"longer than {MAX_CLASS_WEIGHTS_BYTES} bytes")
        found = _weights_of(json.loads(content), labels)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} holds no class weights ({str(error)[:200]})") from None
    return found


def _weights_of(body: object, labels: Sequence[str]) -> tuple[float, ...]:
    """Raises ValueError for JSON that is not weights of these classes."""
    if isinstance(body, dict):
        unknown = [name for name in body if name not in labels]
        if unknown:
            raise ValueError(f"no class is called {unknown[0]!r}; expected names among {list(labels)}")
        body = [body.get(label, 1.0) for label in labels]
    if not isinstance(body, list) or len(body) != len(labels):
        raise ValueError(f"expected an object or a list of {len(labels)} numbers")
    if not all(type(weight) in (int, float) and 0 < weight < math.inf for weight in body):
        raise ValueError("expected numbers above 0")
    return tuple(float(weight) for weight in body)
