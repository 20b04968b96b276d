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

import math
from dataclasses import dataclass

from fedfer.model.errors import UsageError

SPARSE, DENSE = "sparse_categorical_crossentropy", "categorical_crossentropy"
BINARY, SQUARED = "binary_crossentropy", "mean_squared_error"
LOSSES = (SPARSE, DENSE, BINARY, SQUARED)


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
