"""How models end, by kind, and what is said of each. Imports TensorFlow: for `call_isolated`."""

from collections.abc import Callable

import keras
import tensorflow as tf
from keras import layers

from fedfer.export.contract import TrainingSettings
from fedfer.export.ending import refuse_logits
from fedfer.export.loss_settings import BINARY, DENSE, SPARSE, SQUARED, LossSettings
from fedfer.export.tflite import make_contract
from fedfer.model.errors import ExportError

End = Callable[[keras.KerasTensor], keras.KerasTensor]


class OwnEnd(layers.Dense):  # type: ignore[misc]
    """A Dense that says nothing of its sigmoid."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return tf.sigmoid(super().call(x))


def _nested(*stack: keras.Layer) -> keras.Model:
    return keras.Sequential([keras.Input((4,)), *stack], name="inner")


def _sums(x: keras.KerasTensor) -> keras.KerasTensor:
    """Classes of classes: a frozen layer adds probabilities up."""
    sums = layers.Dense(2, use_bias=False, trainable=False, name="sums")
    return sums(layers.Dense(4, activation="softmax")(x))


def _last(units: int) -> keras.Layer:
    return layers.Dense(units, name="last")


LOGITS: dict[str, tuple[str, End]] = {
    "one unit": (BINARY, _last(1)),
    "yes or no of three": (BINARY, _last(3)),
    "classes": (SPARSE, _last(3)),
    "dense classes": (DENSE, _last(3)),
    "linear by name": (SPARSE, lambda x: layers.Activation("linear")(_last(3)(x))),
    "in a model": (BINARY, lambda x: _nested(layers.Dense(3), _last(1))(x)),
    "in a model in a model": (BINARY, lambda x: _nested(_nested(_last(1)))(x)),
    "flattened": (
        SPARSE,
        lambda x: layers.Flatten()(layers.Conv1D(1, 2, name="last")(layers.Reshape((4, 1))(x))),
    ),
    "pooled": (
        SPARSE,
        lambda x: layers.GlobalMaxPooling1D()(layers.Conv1D(3, 2, name="last")(layers.Reshape((4, 1))(x))),
    ),
    "each step": (
        SPARSE,
        lambda x: layers.Flatten()(layers.TimeDistributed(_last(1))(layers.Reshape((4, 1))(x))),
    ),
    "normalised": (SPARSE, lambda x: layers.BatchNormalization()(_last(3)(x))),
    "a mean": (BINARY, lambda x: layers.Average()([layers.Dense(1, activation="sigmoid")(x), _last(1)(x)])),
}
PROBABILITIES: dict[str, tuple[str, End]] = {
    "sigmoid": (BINARY, layers.Dense(1, activation="sigmoid")),
    "activation": (BINARY, lambda x: layers.Activation("sigmoid")(_last(1)(x))),
    "softmax layer": (SPARSE, lambda x: layers.Softmax()(_last(3)(x))),
    "function": (BINARY, lambda x: keras.ops.sigmoid(_last(1)(x))),
    "lambda": (BINARY, lambda x: layers.Lambda(lambda t: tf.nn.sigmoid(t))(_last(1)(x))),
    "mean of softmaxes": (
        SPARSE,
        lambda x: layers.Average()([layers.Dense(3, activation="softmax")(x) for _ in range(2)]),
    ),
    "in a model": (BINARY, lambda x: _nested(_last(1), layers.Activation("sigmoid"))(x)),
    "after a model": (SPARSE, lambda x: layers.Softmax()(_nested(_last(3))(x))),
    "flattened": (
        SPARSE,
        lambda x: layers.Flatten()(layers.Dense(3, activation="softmax")(layers.Reshape((1, 4))(x))),
    ),
    "own layer": (BINARY, OwnEnd(1)),
    "classes of classes": (SPARSE, _sums),
    "scaled tanh": (BINARY, lambda x: layers.Rescaling(0.5, 0.5)(layers.Dense(1, activation="tanh")(x))),
}


def said(cases: dict[str, tuple[str, End]], from_logits: bool = False) -> dict[str, str]:
    """What is said of each, "" where it is let through."""
    found = {}
    for name, (loss, end) in cases.items():
        images = keras.Input((4,))
        model = keras.Model(images, end(images), name="m")
        found[name] = said_of(model, LossSettings(loss, from_logits))
    return found


def said_of(model: keras.Model, loss: LossSettings) -> str:
    outputs = model.output_shape[-1]
    labels = tuple(map(str, range(loss.num_classes_of.get(outputs, outputs))))
    try:
        make_contract(model, labels, TrainingSettings(loss=loss))
        refuse_logits(model, loss)
    except ExportError as error:
        return str(error)
    return ""


def shapes_said() -> dict[str, str]:
    """Of outputs that are not one a label."""
    binary, places = LossSettings(BINARY), keras.Input((6, 4))
    softmax = layers.Dense(3, activation="softmax")
    two = layers.Dense(2, activation="sigmoid")(places[:, 0])
    images = keras.Input((6, 4, 2))
    return {
        "steps": said_of(keras.Model(places, softmax(places), name="m"), LossSettings()),
        "pixels": said_of(keras.Model(images, layers.Dense(3)(images), name="m"), LossSettings(SQUARED)),
        "two answers": said_of(keras.Model(places, two, name="m"), binary),
    }


def all_said() -> tuple[dict[str, str], ...]:
    """Of logits, of logits that are said to be some, of probabilities, of a regressor."""
    squared = {"regressor": (SQUARED, _last(2))}
    return said(LOGITS), said(LOGITS, from_logits=True), said(PROBABILITIES), said(squared)
