"""Small Keras models and their export, for tests. Imports TensorFlow: call from `call_isolated` only."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras

LABELS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")


def tiny_model(dropout: float = 0.3) -> keras.Model:
    """Two convolutions with BatchNorm, pooling and dropout: 48x48x1 -> 7 probabilities, 16,007 parameters."""
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Input((48, 48, 1)),
        keras.layers.Conv2D(4, 3, activation="relu", name="conv1"),
        keras.layers.BatchNormalization(name="bn1"),
        keras.layers.MaxPooling2D(3, 2, name="pool1"),
        keras.layers.Dropout(dropout, name="drop1"),
        keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="conv2"),
        keras.layers.BatchNormalization(name="bn2"),
        keras.layers.MaxPooling2D(3, 2, padding="same", name="pool2"),
        keras.layers.Flatten(name="flatten"),
        keras.layers.Dense(16, activation="relu", name="dense1"),
        keras.layers.Dense(7, activation="softmax", name="probabilities"),
    ]
    return keras.Sequential(layers, name="tiny")


def smooth_model(dropout: float = 0.3) -> keras.Model:
    """As the tiny one, without maxima: nothing that rounding could tip over in many steps."""
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Input((48, 48, 1)),
        keras.layers.Conv2D(4, 3, strides=2, activation="tanh", name="conv1"),
        keras.layers.BatchNormalization(name="bn1"),
        keras.layers.AveragePooling2D(2, name="pool1"),
        keras.layers.Dropout(dropout, name="drop1"),
        keras.layers.Flatten(name="flatten"),
        keras.layers.Dense(16, activation="tanh", name="dense1"),
        keras.layers.Dense(7, activation="softmax", name="probabilities"),
    ]
    return keras.Sequential(layers, name="smooth")


def wide_model() -> keras.Model:
    """One hidden layer: 48x48x1 -> 7 probabilities, 1,183,751 parameters, a checkpoint of 4.7 MB."""
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Input((48, 48, 1)),
        keras.layers.Flatten(name="flatten"),
        keras.layers.Dense(512, activation="relu", name="dense1"),
        keras.layers.Dense(7, activation="softmax", name="probabilities"),
    ]
    return keras.Sequential(layers, name="wide")


def small_skip_model() -> keras.Model:
    """Functional, with a branch, a skip, weight decay and a strided convolution: 16x16x3 -> 4 classes."""
    images = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="a")(images)
    decay = keras.regularizers.L2(0.1)
    y = keras.layers.Conv2D(8, 3, padding="same", activation="relu", kernel_regularizer=decay, name="b")(x)
    x = keras.layers.Add(name="skip")([x, y])
    x = keras.layers.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="c")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(images, keras.layers.Dense(4, activation="softmax", name="d")(x), name="skipping")


def mobile_model() -> keras.Model:
    """An inverted residual block as in MobileNetV2 on 16x16x3: 3 probabilities."""
    images = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False, name="stem")(images)
    y = keras.layers.ReLU(6.0)(
        keras.layers.BatchNormalization(name="bn_expand")(
            keras.layers.Conv2D(24, 1, use_bias=False, name="expand")(x)
        )
    )
    y = keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(y)
    y = keras.layers.ReLU(6.0)(keras.layers.BatchNormalization(name="bn_depthwise")(y))
    x = keras.layers.Add()([x, keras.layers.Conv2D(8, 1, use_bias=False, name="project")(y)])
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.AveragePooling2D(2)(x))
    return keras.Model(images, keras.layers.Dense(3, activation="softmax", name="d")(x), name="mobile")


def logits_model() -> keras.Model:
    """Ends in logits, which cannot be trained as probabilities."""
    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    return keras.Sequential(layers, name="logits")


def compiled_model() -> keras.Model:
    """Says how it is to be trained."""
    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3, activation="softmax")]
    model = keras.Sequential(layers, name="compiled")
    optimizer = keras.optimizers.AdamW(0.25, beta_1=0.5, weight_decay=0.125, global_clipnorm=2.0)
    model.compile(optimizer, keras.losses.CategoricalCrossentropy(label_smoothing=0.25))
    return model


def model_with_other_optimizer() -> keras.Model:
    model = compiled_model()
    model.compile("rmsprop", "categorical_crossentropy")
    return model


def unsupported_model() -> keras.Model:
    """A layer that phones have no operator for."""
    images = keras.Input((8, 8, 1))
    x = keras.layers.Flatten()(keras.layers.UpSampling2D(2, interpolation="bicubic")(images))
    return keras.Model(images, keras.layers.Dense(3, activation="softmax")(x), name="unsupported")


class Rolled(keras.layers.Layer):  # type: ignore[misc]
    """Rows moved by one: a layer of somebody's own."""

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return keras.ops.roll(x, 1, 1)


def rolling_model() -> keras.Model:
    """A layer that nobody knows, of an operator that phones lack."""
    layers = [keras.Input((8, 8, 1)), Rolled(), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")]
    return keras.Sequential(layers, name="rolling")


def not_a_model() -> str:
    return "model"


class Raising(keras.layers.Layer):  # type: ignore[misc]
    """Fails from its second call on, when the model is converted."""

    calls = 0

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        self.calls += 1
        if self.calls > 1:
            raise ValueError("only for images\nand more")
        return x


class Looping(keras.layers.Layer):  # type: ignore[misc]
    """A loop of a layer's own."""

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return keras.ops.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, keras.ops.sin(y) * y), (0, x))[1]


def _around(*middle: keras.layers.Layer) -> keras.Model:
    stack = [keras.Input((6,)), keras.layers.Dense(6), *middle, keras.layers.Dense(3, "softmax", name="d")]
    return keras.Sequential(stack, name="around")


def looping_model() -> keras.Model:
    return _around(Looping())


def raising_layer_model() -> keras.Model:
    return _around(Raising())


def rolled_between_layers() -> keras.Model:
    """No layer holds the operator that phones lack."""
    x = keras.Input((6,))
    y = keras.ops.roll(keras.layers.Dense(6)(x), 1, 1)
    return keras.Model(x, keras.layers.Dense(3, activation="softmax")(y))


def unknown_weights_model() -> keras.Model:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, "softmax", name="dense")])
    model.set_weights([model.get_weights()[0] * float("nan"), model.get_weights()[1]])
    return model


def fixed_batch_model() -> keras.Model:
    return keras.Sequential([keras.Input(batch_shape=(4, 6)), keras.layers.Dense(3, "softmax")])


def frozen_model() -> keras.Model:
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, "softmax", name="d")])
    model.trainable = False
    return model


def model_of_size(size: int) -> keras.Model:
    """Cannot be called without arguments."""
    return keras.Sequential([keras.Input((size,)), keras.layers.Dense(3, "softmax")])


def failing_model() -> keras.Model:
    raise ValueError("no data\nat all")


def exiting_model() -> keras.Model:
    raise SystemExit(3)
