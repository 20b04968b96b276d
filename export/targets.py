"""What `train` is told of each example, and how much it counts: targets and class weights. No TensorFlow."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfer.export.loss_settings import TargetSpec
from fedfer.model.errors import DataError, UsageError

MAX_CLASS_WEIGHTS_BYTES = 2**20


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
