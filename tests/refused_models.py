"""Keras models that cannot be exported, and what is said of each. Imports TensorFlow: for `call_isolated`."""

import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf
from keras import layers

from fedfer.export.refusal import refuse
from fedfer.model.errors import ExportError

Layers = list[Callable[[], Any]]


class Subclassed(keras.Model):  # type: ignore[misc]
    """Builds its layers inside `call`'s reach: nothing says how they hang together."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return self.dense(x)


class OwnNoise(layers.Layer):  # type: ignore[misc]
    """Draws from a generator of its own."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name)
        self.generator = keras.random.SeedGenerator(1)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return x + keras.random.normal(x.shape[1:], seed=self.generator)


def _through(*stack: keras.Layer, shape: tuple[int | None, ...] = (8, 8, 2)) -> keras.Model:
    """The layers in a row, and a softmax at the end."""
    x = images = keras.Input(shape)
    for layer in stack:
        x = layer(x)
    end = layers.Dense(3, activation="softmax")
    return keras.Model(images, end(layers.GlobalMaxPooling2D()(x) if len(x.shape) == 4 else x))


def _two_inputs() -> keras.Model:
    first, second = keras.Input((3,)), keras.Input((3,))
    return keras.Model([first, second], layers.Dense(2)(layers.Add()([first, second])))


def _two_outputs() -> keras.Model:
    x = keras.Input((3,))
    return keras.Model(x, [layers.Dense(2)(x), layers.Dense(2)(x)])


def _named_output() -> keras.Model:
    x = keras.Input((3,))
    return keras.Model(x, {"classes": layers.Dense(2)(x)})


def _subclassed() -> keras.Model:
    model = Subclassed()
    model(tf.zeros([1, 3]))
    return model


def _attention() -> keras.Model:
    x = keras.Input((6, 4))
    y = layers.Flatten()(layers.Attention(dropout=0.3, name="look")([x, x]))
    return keras.Model(x, layers.Dense(2, activation="softmax")(y))


def _half() -> keras.Model:
    return _through(layers.Conv2D(2, 3, dtype="mixed_float16", name="half"))


def _sequence(*stack: keras.Layer) -> keras.Model:
    return _through(*stack, shape=(6, 3))


MODELS: dict[str, Callable[[], keras.Model]] = {
    "two inputs": _two_inputs,
    "two outputs": _two_outputs,
    "subclassed": _subclassed,
    "any size": lambda: _through(layers.Conv2D(2, 3), shape=(None, None, 2)),
    "any length": lambda: _through(layers.LSTM(3), shape=(None, 3)),
    "half precision": _half,
    "volume": lambda: _through(layers.Reshape((2, 4, 8, 2)), layers.Conv3D(2, 2, name="v"), layers.Flatten()),
    "noise": lambda: _through(layers.GaussianNoise(0.1, name="n")),
    "augmentation": lambda: _through(layers.RandomFlip(name="flip")),
    "recurrent convolution": lambda: _through(
        layers.Reshape((2, 4, 8, 2)), layers.ConvLSTM2D(2, 2, name="c")
    ),
    "channels first": lambda: _through(layers.MaxPooling2D(2, data_format="channels_first", name="first")),
    "constraint": lambda: _through(layers.Conv2D(2, 3, kernel_constraint="max_norm", name="bound")),
    "stateful": lambda: keras.Sequential(
        [keras.Input(batch_shape=(2, 6, 3)), layers.LSTM(3, stateful=True, name="state"), layers.Dense(2)]
    ),
    "recurrent dropout": lambda: _sequence(layers.GRU(3, recurrent_dropout=0.2, name="gru")),
    "both ways with dropout": lambda: _sequence(
        layers.Bidirectional(layers.LSTM(3, dropout=0.2), name="both")
    ),
    "attention with dropout": _attention,
    "own noise": lambda: _through(OwnNoise(name="own")),
    "bicubic": lambda: _through(layers.UpSampling2D(2, interpolation="bicubic", name="up")),
    "dilated and transposed": lambda: _through(layers.Conv2DTranspose(2, 3, dilation_rate=2, name="t")),
    "groups of rows": lambda: _through(layers.GroupNormalization(2, axis=1, name="rows")),
    "scaling": lambda: _through(layers.LayerNormalization(rms_scaling=True, name="scaling")),
    "mask of a batch": lambda: _through(layers.Dropout(0.5, noise_shape=(4, 1, 1, 2), name="mask")),
    "long sequence": lambda: _through(layers.LSTM(3, name="long"), shape=(600, 3)),
    "name of a layer": lambda: _through(layers.Conv2D(2, 3, name="größe 1")),
    "name of the model": lambda: keras.Sequential([keras.Input((3,)), layers.Dense(2)], name="my model"),
    "output by name": _named_output,
    "unknown function": lambda: _through(layers.Lambda(lambda x: tf.math.erf(x), name="own")),
    "rolling function": lambda: _through(layers.Lambda(lambda x: tf.roll(x, 1, 1), name="own")),
}
TWICE: Layers = [lambda: layers.GaussianNoise(0.1), lambda: layers.GaussianDropout(0.1)]


def refusals() -> dict[str, str]:
    """What `refuse` says of each, "" where it lets it through."""
    said = {word: _said(build()) for word, build in MODELS.items()}
    said["many"] = _said(_through(*[make() for _ in range(2) for make in TWICE]))
    return said


def _said(model: keras.Model) -> str:
    try:
        refuse(model)
    except ExportError as error:
        return str(error)
    return ""


def allowed() -> dict[str, str]:
    """The same of models that can be exported."""
    import keras_models
    import whole_models

    from fedfer.model.mnist import fedavg_cnn
    from fedfer.model.vgg import build_vgg

    names = ("resnet10", "mobilenet", "modern", "sequences", "words", "regressor", "table")
    builds = [getattr(whole_models, name) for name in names]
    builds += [keras_models.small_skip_model, keras_models.mobile_model, fedavg_cnn, build_vgg]
    nested = _through(keras.Sequential([layers.Conv2D(2, 3), layers.Lambda(lambda x: tf.nn.relu(x) * 2.0)]))
    return {model.name: _said(model) for model in [*(build() for build in builds), nested]}


def operators_by_layer() -> tuple[list[str], list[str]]:
    """The layers that hold a ResizeBicubic, and a gradient's operator, in a traced step."""
    from fedfer.export.refusal import layers_with

    model = _through(
        layers.Conv2D(2, 3, name="up"), layers.UpSampling2D(2, interpolation="bicubic", name="up_2")
    )

    def step(x: tf.Tensor) -> list[tf.Tensor]:
        return list(tf.gradients(model(x), [weight.value for weight in model.trainable_weights]))

    graph = tf.function(step).get_concrete_function(tf.TensorSpec([None, 8, 8, 2])).graph
    return layers_with(graph, ["ResizeBicubic"], model), layers_with(graph, ["Conv2DBackpropFilter"], model)
