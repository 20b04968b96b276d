"""Twenty steps of a whole model in Keras and in the exported file, for `call_isolated`."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfer.export.checkpoint import Weights
from fedfer.export.optimizer_settings import OptimizerSettings

COMPILED = "CompiledModel"  # LiteRT's other API, beside the interpreters of fedfer.export.runtime
NUM_STEPS = 20
WARMING_STEPS, WARMING_RATE = 60, 0.005
GRADIENT_RATE = 2.0**30  # one step of SGD at this rate is the gradient: weights are nothing beside it
Batches = list[tuple[NDArray[np.float32], NDArray[Any]]]


def batches(name: str, batch_size: int) -> Batches:
    """NUM_STEPS batches: of drawn faces, no image twice, for the tiny model; for the VGG of waves, the same
    five batches over and over, so that training shows in the losses."""
    from runtime_helpers import faces

    if name == "tiny":
        return in_batches(*faces(batch_size * NUM_STEPS), batch_size)
    return in_batches(*slanted_waves(NUM_STEPS // 4 * batch_size, seed=20), batch_size) * 4


def in_batches(images: NDArray[np.float32], labels: NDArray[Any], batch_size: int) -> Batches:
    starts = range(0, len(images), batch_size)
    return [(images[at : at + batch_size], labels[at : at + batch_size]) for at in starts]


def slanted_waves(count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Images unlike each other (drawn faces are all alike to deep layers, where BatchNorm then magnifies
    rounding), in seven classes that can be learnt: by how much more they change downwards than along."""
    from fedfer.export.waves import wave_images

    images = wave_images(np.random.default_rng(seed), count, (48, 48, 1))
    down, along = (np.abs(np.diff(images, axis=axis)).mean((1, 2, 3)) for axis in (1, 2))
    return images, np.digitize(down - along, [-0.04, -0.02, -0.006, 0.006, 0.02, 0.04]).astype(np.int32)


def warmed_weights(batch_size: int) -> Weights:
    """The VGG's weights after WARMING_STEPS steps with momentum in Keras, on images of their own; in float64,
    so that all processors come to the same ones."""
    import keras
    from keras_reference import build

    keras.config.set_floatx("float64")
    model = build("vgg")
    optimizer = keras.optimizers.SGD(WARMING_RATE, momentum=0.9)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    for batch in in_batches(*slanted_waves(WARMING_STEPS * batch_size, seed=3), batch_size):
        model.train_on_batch(*batch)
    return {name: weight.astype(np.float32) for name, weight in weights_of(model).items()}


def weights_of(model: Any) -> Weights:
    """By the names that they have in checkpoints; in whatever precision `model` holds them."""
    from fedfer.export.trainable import travelling_weights, weight_name

    return {weight_name(weight, model): np.array(weight) for weight in travelling_weights(model)}


def export_exactly(path: Path, name: str, optimizer: OptimizerSettings) -> None:
    """Dropout off."""
    from keras_reference import build

    from fedfer.export.contract import TrainingSettings
    from fedfer.export.tflite import convert
    from fedfer.model.labels import LABELS

    path.write_bytes(convert(build(name), LABELS, TrainingSettings(optimizer)))


def steps_in_keras(
    name: str,
    optimizer: OptimizerSettings,
    learning_rate: float,
    batch_size: int,
    start: Weights | None = None,
    *,
    precision: str = "float32",
    num_steps: int = NUM_STEPS,
) -> tuple[Weights, Weights, list[float]]:
    """Weights before and after, and losses, by `train_on_batch`, from `start` if given; all of it computed,
    and weights held, in `precision`."""
    import keras
    from keras_reference import build

    from fedfer.export.keras_training import keras_optimizer

    keras.config.set_floatx(precision)
    model = build(name)
    if start is not None:
        model.set_weights([start[weight] for weight in weights_of(model)])
    start = weights_of(model)
    model.compile(keras_optimizer(optimizer, learning_rate), "sparse_categorical_crossentropy")
    steps = batches(name, batch_size)[:num_steps]
    losses = [float(model.train_on_batch(images, labels)) for images, labels in steps]
    return start, weights_of(model), losses


def steps_on_phone(
    path: Path,
    name: str,
    runtime: str,
    learning_rate: float,
    batch_size: int,
    start: Weights | None = None,
    *,
    num_steps: int = NUM_STEPS,
) -> tuple[Weights, list[float]]:
    """Weights after the same steps of the file, from `start` if given, and losses."""
    steps = batches(name, batch_size)[:num_steps]
    if runtime == COMPILED:
        from compiled_model import Compiled

        compiled = Compiled(path.read_bytes())
        if start is not None:
            compiled.run("restore", **start)
        losses = [compiled.train(*batch, learning_rate) for batch in steps]
        return compiled.save(), losses
    from fedfer.export.runtime import Model

    model: Any = Model(path, runtime=runtime)
    if start is not None:
        model.restore(start)
    losses = [model.train(*batch, learning_rate=learning_rate, seed=0).loss for batch in steps]
    return model.save(), losses
