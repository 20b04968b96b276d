"""Exports of the tiny model of which only a part trains, and the same in Keras, for `call_isolated`."""

from pathlib import Path
from typing import Any

import numpy as np

from fedfer.export.checkpoint import Weights

RATE, NUM_STEPS, BATCH_SIZE = 0.05, 3, 6


def build(trainable: str, half: bool = False) -> Any:
    """The tiny model without dropout, its moving statistics no longer 0 and 1."""
    from keras_models import tiny_model

    from fedfer.export.tflite import round_to_float16
    from fedfer.export.trainable import choose_trainable

    model = tiny_model(dropout=0.0)
    rng = np.random.default_rng(5)
    for weight in model.weights:
        if "moving" in weight.path:
            weight.assign(rng.uniform(0.1, 0.4, weight.shape))
    if half:
        round_to_float16(model)
    choose_trainable(model, trainable)
    return model


def export_part(path: Path, trainable: str, half: bool = False, changed_body: bool = False) -> None:
    from keras_models import LABELS

    from fedfer.export.contract import TrainingSettings
    from fedfer.export.tflite import convert

    model = build(trainable, half)
    if changed_body:
        model.weights[0].assign(model.weights[0] + 0.5)
    path.write_bytes(convert(model, LABELS, TrainingSettings(), half_precision=half))


def train_in_keras(trainable: str) -> tuple[Weights, Weights]:
    """All weights by name, before and after NUM_STEPS."""
    import keras
    from runtime_helpers import faces

    model = build(trainable)
    names = [weight.path.removeprefix("tiny/") for weight in model.weights]
    before = dict(zip(names, map(np.array, model.get_weights()), strict=True))
    model.compile(keras.optimizers.SGD(RATE), "sparse_categorical_crossentropy")
    for _ in range(NUM_STEPS):
        model.train_on_batch(*faces(BATCH_SIZE))
    return before, dict(zip(names, map(np.array, model.get_weights()), strict=True))


def chosen_layers(wanted: list[str]) -> list[list[str]]:
    """Names of the layers that train, of VGG and of a functional model with a nested one."""
    import keras

    from fedfer.export.trainable import choose_trainable
    from fedfer.model.errors import UsageError

    found = []
    for choice in wanted:
        try:
            model = nested_model()
            assert isinstance(model, keras.Model)
            choose_trainable(model, choice)
            found.append(sorted({weight.path.split("/")[-2] for weight in model.trainable_weights}))
        except UsageError as error:
            found.append([str(error)])
    return found


def chosen_when_frozen() -> str:
    """What is said of a choice of layers that came frozen."""
    from fedfer.export.trainable import choose_trainable
    from fedfer.model.errors import UsageError

    model = nested_model()
    choose_trainable(model, "c,d")
    try:
        choose_trainable(model, "bo*")
    except UsageError as error:
        return str(error)
    return ""


def heads() -> list[str]:
    """Weights of an LSTM's and a perceptron's heads, or what is said of them."""
    import whole_models

    from fedfer.export.trainable import choose_trainable
    from fedfer.model.errors import UsageError

    found = []
    for model in (whole_models.words(), whole_models.table()):
        try:
            choose_trainable(model, "head")
            found.append(" ".join(weight.path for weight in model.trainable_weights))
        except UsageError as error:
            found.append(str(error))
    return found


def names_by_function_and_file(path: Path) -> tuple[list[str], list[str]]:
    """Of the weights of layers inside layers, before and after the model was in a file."""
    import keras

    from fedfer.export.keras_source import load_keras_model
    from fedfer.export.trainable import weight_name

    kinds = keras.layers
    ready = keras.Sequential([keras.Input((5, 4)), kinds.Dense(4, name="same")], name="ready")
    unready = keras.Sequential([kinds.Dense(4, name="same")], name="unready")
    sequences = keras.Input((5, 4))
    x = ready(unready(kinds.Dense(4, name="same")(sequences)))
    x = kinds.TimeDistributed(kinds.Dense(3, name="inner"), name="each")(x)
    x = kinds.Bidirectional(kinds.LSTM(2, name="lstm"), name="both")(x)
    model = keras.Model(sequences, kinds.Dense(2, activation="softmax", name="end")(x), name="nesting")
    model.save(path)
    loaded = load_keras_model(str(path))
    by_function, by_file = ([weight_name(w, m) for w in m.weights] for m in (model, loaded))
    return by_function, by_file


def nested_model() -> Any:
    """A body as a model of its own in front of a head."""
    import keras

    images = keras.Input((8, 8, 1))
    body = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(2, 3, name="a"),
            keras.layers.BatchNormalization(name="b"),
        ],
        name="body",
    )
    x = keras.layers.GlobalAveragePooling2D(name="pool")(body(images))
    x = keras.layers.Dense(4, activation="relu", name="c")(x)
    return keras.Model(images, keras.layers.Dense(2, activation="softmax", name="d")(x), name="nested")


def export_and_start(folder: Path) -> list[str]:
    """`start_from` with checkpoints of the whole and of a part; what went wrong, or nothing."""
    from keras_models import LABELS, tiny_model

    from fedfer.export.checkpoint import checkpoint_bytes
    from fedfer.export.contract import TrainingSettings
    from fedfer.export.pretrained import start_from
    from fedfer.export.tflite import make_contract
    from fedfer.export.trainable import travelling_weights
    from fedfer.model.errors import CheckpointError

    whole = make_contract(tiny_model(), LABELS, TrainingSettings())
    files = {}
    for name, trainable, value in (("whole", "all", 1.0), ("head", "head", 2.0)):
        model = build(trainable)
        contract = make_contract(model, LABELS, TrainingSettings())
        weights = {spec.name: np.full(spec.shape, value, np.float32) for spec in contract.weights}
        assert len(travelling_weights(model)) == len(weights)
        files[name] = folder / f"{name}.safetensors"
        files[name].write_bytes(checkpoint_bytes(weights, contract))
    said = []
    for given in (["whole", "head"], ["whole"], ["head"]):
        model = tiny_model()
        try:
            start_from(model, [files[name] for name in given], whole)
            said.append(" ".join(f"{float(np.mean(w)):g}" for w in model.get_weights()))
        except CheckpointError as error:
            said.append(str(error))
    return said
