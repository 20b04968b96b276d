"""Twenty steps of a whole model in Keras and in the exported file, for `call_isolated`."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfer.export.checkpoint import Weights
from fedfer.export.optimizer_settings import OptimizerSettings

COMPILED = "CompiledModel"  # LiteRT's other API, beside the interpreters of fedfer.export.runtime
NUM_STEPS = 20


def batches(name: str, batch_size: int) -> list[tuple[NDArray[np.float32], NDArray[Any]]]:
    """NUM_STEPS batches, no image twice: drawn faces for the tiny model. To the VGG's deep layers these are
    all alike, and BatchNorm then magnifies rounding (fedfer.export.waves); it gets images that are not."""
    from runtime_helpers import faces

    from fedfer.export.waves import wave_images

    rng, count = np.random.default_rng(20), batch_size * NUM_STEPS
    images, labels = faces(count)
    if name != "tiny":
        images, labels = wave_images(rng, count, (48, 48, 1)), rng.integers(0, 7, count, np.uint8)
    starts = range(0, count, batch_size)
    return [(images[at : at + batch_size], labels[at : at + batch_size]) for at in starts]


def export_exactly(path: Path, name: str, optimizer: OptimizerSettings) -> None:
    """Dropout off."""
    from keras_reference import build

    from fedfer.export.contract import TrainingSettings
    from fedfer.export.tflite import convert
    from fedfer.model.labels import LABELS

    path.write_bytes(convert(build(name), LABELS, TrainingSettings(optimizer)))


def steps_in_keras(
    name: str, optimizer: OptimizerSettings, learning_rate: float, batch_size: int, disturbed: float = 0.0
) -> tuple[Weights, Weights, list[float]]:
    """Weights before and after, and losses, by `train_on_batch`; `disturbed` changes the pixels of the first
    batch by this share of themselves, up or down at random."""
    from keras_reference import build

    from fedfer.export.keras_training import keras_optimizer
    from fedfer.export.signatures import weight_specs

    model = build(name)
    names = [spec.name for spec in weight_specs(model)]
    start = dict(zip(names, map(np.array, model.get_weights()), strict=True))
    model.compile(keras_optimizer(optimizer, learning_rate), "sparse_categorical_crossentropy")
    losses, signs = [], np.random.default_rng(0)
    for number, (images, labels) in enumerate(batches(name, batch_size)):
        if disturbed and number == 0:
            images = (images * (1 + disturbed * signs.choice([-1, 1], images.shape))).astype(np.float32)
        losses.append(float(model.train_on_batch(images, labels)))
    return start, dict(zip(names, map(np.array, model.get_weights()), strict=True)), losses


def steps_on_phone(
    path: Path, name: str, runtime: str, learning_rate: float, batch_size: int
) -> tuple[Weights, list[float]]:
    """Weights after the same steps of the file, and losses."""
    if runtime == COMPILED:
        from compiled_model import Compiled

        compiled = Compiled(path.read_bytes())
        losses = [compiled.train(*batch, learning_rate) for batch in batches(name, batch_size)]
        return compiled.save(), losses
    from fedfer.export.runtime import Model

    model: Any = Model(path, runtime=runtime)
    losses = [
        model.train(*batch, learning_rate=learning_rate, seed=0).loss for batch in batches(name, batch_size)
    ]
    return model.save(), losses
