"""Evaluating an exported `.tflite` on labelled images by its own `infer` signature. No TensorFlow.

Loads an interpreter: call it through `fedfer.export.isolation.call_isolated` from a process that lives
on, or that may have TensorFlow in it.
"""

from pathlib import Path

import numpy as np

from fedfer.export.checkpoint import load_checkpoint
from fedfer.export.runtime import Model
from fedfer.model.data import LabelledImages, check_fit, to_float
from fedfer.model.measures import Measures, measure

BATCH_SIZE = 64


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
    loaded = Model(model, runtime=runtime)
    contract = loaded.contract
    check_fit(data, contract.image_shape, len(contract.labels))
    if weights is not None:
        loaded.restore(load_checkpoint(weights, contract))
    starts = range(0, len(data), batch_size)
    batches = [
        loaded.infer(to_float(data.images[at : at + batch_size], contract.pixel_divisor)) for at in starts
    ]
    return measure(np.concatenate(batches), data.labels)
