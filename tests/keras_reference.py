"""Local training by hand in Keras, for a process of its own: what the phones' results are held against."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfer.android_stub.trainer import Seeds, epoch_batches
from fedfer.export.checkpoint import Weights
from fedfer.model.data import LabelledImages, to_float


def build(name: str) -> Any:
    """The Keras model `tiny` (tests/keras_models.py) or `vgg`, without dropout."""
    if name == "tiny":
        from keras_models import tiny_model

        return tiny_model(dropout=0.0)
    from fedfer.model.vgg import build_vgg

    return build_vgg(dropout=0.0)


def export_named(name: str, path: Path) -> None:
    """Writes the `.tflite` of the model called `name`."""
    from fedfer.export.contract import TrainingSettings
    from fedfer.export.tflite import convert
    from fedfer.model.labels import LABELS

    path.write_bytes(convert(build(name), LABELS, TrainingSettings()))


def train_in_keras(
    name: str, shares: list[LabelledImages], learning_rate: float, batch_size: int, fleet_seed: int
) -> list[Weights]:
    """One local epoch on each share with Keras's own `train_on_batch`, from the same start, in the order of
    images that device k of a fleet takes in round 1."""
    import keras

    from fedfer.export.signatures import weight_specs

    model = build(name)
    names = [spec.name for spec in weight_specs(model)]
    start: list[NDArray[np.float32]] = model.get_weights()
    model.compile(keras.optimizers.SGD(learning_rate), "sparse_categorical_crossentropy")
    trained = []
    for device, share in enumerate(shares):
        model.set_weights(start)
        for batch in epoch_batches(len(share), batch_size, Seeds(fleet_seed, device, 1).shuffle(0)):
            model.train_on_batch(to_float(share.images[batch]), share.labels[batch])
        trained.append(dict(zip(names, (np.array(w) for w in model.get_weights()), strict=True)))
    return trained
