"""Evaluating an exported `.tflite` on labelled images by its own `infer` signature. No TensorFlow.

`evaluate` loads an interpreter, for a process that holds nothing else; `evaluate_apart` leaves that to
processes of its own, for one that lives on, or that may have TensorFlow in it. Both give the same numbers:
batches are the same, and each is inferred for itself.
"""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedfer.export.checkpoint import load_checkpoint
from fedfer.export.isolation import call_isolated_each
from fedfer.export.runtime import Model
from fedfer.model.data import LabelledImages, check_fit, to_float
from fedfer.model.measures import Measures, measure

BATCH_SIZE = 64
MAX_PROCESSES = 4
EACH = 4 * BATCH_SIZE  # images that are worth a process: the VGG takes two seconds for them


def evaluate(
    model: Path,
    weights: Path | None,
    data: LabelledImages,
    *,
    runtime: str = "auto",
    batch_size: int = BATCH_SIZE,
) -> Measures:
    """Measures of the model on `data`, with a checkpoint's weights or else those inside the file.

    Raises ModelFileError, InterpreterError, CheckpointError, and DataError for images that do not fit.
    """
    return measure(outputs(model, weights, data, runtime, batch_size), data.labels)


def evaluate_apart(
    model: Path, weights: Path | None, data: LabelledImages, *, runtime: str = "auto"
) -> Measures:
    """The same in processes of its own: one for each of this machine's processors, if there are so many
    images."""
    calls = [(model, weights, data.take(part), runtime) for part in parts(len(data), os.cpu_count() or 1)]
    return measure(np.concatenate(call_isolated_each(outputs, calls)), data.labels)


def outputs(
    model: Path,
    weights: Path | None,
    data: LabelledImages,
    runtime: str = "auto",
    batch_size: int = BATCH_SIZE,
) -> NDArray[np.float32]:
    """f32[n, K], what the model says of each. Loads an interpreter; raises as `evaluate`."""
    loaded = Model(model, runtime=runtime)
    contract = loaded.contract
    check_fit(data, contract.image_shape, len(contract.labels))
    if weights is not None:
        loaded.restore(load_checkpoint(weights, contract))
    starts = range(0, len(data), batch_size)
    return np.concatenate(
        [loaded.infer(to_float(data.images[at : at + batch_size], contract.pixel_divisor)) for at in starts]
    )


def parts(num_images: int, num_processors: int) -> list[slice]:
    """0..num_images in order, in parts of whole batches of about equal length; the last may end with a part
    of a batch."""
    num_parts = max(1, min(MAX_PROCESSES, num_processors, num_images // EACH))
    num_batches = -(-num_images // BATCH_SIZE)
    edges = [number * num_batches // num_parts * BATCH_SIZE for number in range(num_parts)]
    return [slice(a, b) for a, b in zip(edges, [*edges[1:], num_images], strict=True)]
