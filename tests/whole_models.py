"""Whole networks of the kinds that people train, small, for `fedfer export whole_models:FUNCTION`."""

import keras
from keras import layers

DECAY = 1e-4


def resnet18() -> keras.Model:
    """ResNet-18 (He et al. 2015, arXiv 1512.03385, table 1) for 32x32x3, an eighth as wide: 10 classes."""
    return _resnet(2, "resnet18")


def resnet10() -> keras.Model:
    """The same with one block instead of two at each width."""
    return _resnet(1, "resnet10")


def _resnet(blocks: int, name: str) -> keras.Model:
    keras.utils.set_random_seed(1)
    images = keras.Input((32, 32, 3))
    x = _normed(layers.Conv2D(8, 3, padding="same", use_bias=False)(images), "relu")
    for number, width in enumerate((8, 16, 32, 64)):
        for block in range(blocks):
            x = _residual(x, width, 2 if number and not block else 1)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, layers.Dense(10, activation="softmax")(x), name=name)


def _residual(x: keras.KerasTensor, width: int, stride: int) -> keras.KerasTensor:
    decay = keras.regularizers.L2(DECAY)
    options = {"padding": "same", "use_bias": False, "kernel_regularizer": decay}
    y = _normed(layers.Conv2D(width, 3, strides=stride, **options)(x), "relu")
    y = _normed(layers.Conv2D(width, 3, **options)(y), None)
    if x.shape[1:] != y.shape[1:]:
        x = _normed(layers.Conv2D(width, 1, strides=stride, **options)(x), None)
    return layers.Activation("relu")(layers.Add()([x, y]))


def _normed(x: keras.KerasTensor, activation: str | None) -> keras.KerasTensor:
    x = layers.BatchNormalization(momentum=0.9)(x)
    return x if activation is None else layers.Activation(activation)(x)


def mobilenet() -> keras.Model:
    """MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381) for 32x32x3, narrow: 5 logits, compiled so."""
    keras.utils.set_random_seed(2)
    images = keras.Input((32, 32, 3))
    x = _normed(layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(images), "relu6")
    for expansion, width, repeats, stride in ((1, 8, 1, 1), (6, 12, 2, 2), (6, 16, 1, 2)):
        for block in range(repeats):
            x = _inverted(x, expansion, width, stride if block == 0 else 1)
    x = _normed(layers.Conv2D(64, 1, use_bias=False)(x), "relu6")
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(images, layers.Dense(5)(x), name="mobilenet")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss)
    return model


def _inverted(x: keras.KerasTensor, expansion: int, width: int, stride: int) -> keras.KerasTensor:
    y = _normed(layers.Conv2D(expansion * x.shape[-1], 1, use_bias=False)(x), "relu6")
    y = layers.ZeroPadding2D(((0, 1), (0, 1)))(y) if stride == 2 else y
    padding = "valid" if stride == 2 else "same"
    y = _normed(layers.DepthwiseConv2D(3, stride, padding, use_bias=False)(y), "relu6")
    y = _normed(layers.Conv2D(width, 1, use_bias=False)(y), None)
    return layers.Add()([x, y]) if x.shape[1:] == y.shape[1:] else y


def modern() -> keras.Model:
    """A ConvNeXt-like block (Liu et al. 2022, arXiv 2201.03545) between a stem and an upsampling decoder."""
    keras.utils.set_random_seed(3)
    images = keras.Input((16, 18, 3))
    x = layers.LayerNormalization()(layers.Conv2D(8, 2, strides=2)(layers.Rescaling(2.0, -1.0)(images)))
    y = layers.LayerNormalization()(layers.DepthwiseConv2D(5, padding="same")(x))
    y = layers.Dense(8)(layers.Activation("gelu")(layers.Dense(32)(y)))
    x = layers.SpatialDropout2D(0.25)(layers.Add()([x, y]))
    x = layers.Conv2DTranspose(6, 3, strides=2, padding="same", activation="silu")(x)
    coarse = layers.UpSampling2D(2)(layers.MaxPooling2D(2)(x))
    x = layers.GroupNormalization(2)(layers.Concatenate()([x, coarse]))
    x = layers.Flatten()(layers.AveragePooling2D(4)(x))
    model = keras.Model(images, layers.Dense(1, activation="sigmoid")(x), name="modern")
    model.compile("sgd", keras.losses.BinaryCrossentropy(label_smoothing=0.1))
    return model


def sequences() -> keras.Model:
    """An LSTM over 12 measurements of 3 channels: 4 classes."""
    keras.utils.set_random_seed(4)
    layer = layers.Bidirectional(layers.LSTM(8, return_sequences=True))
    stack = [keras.Input((12, 3)), layers.Conv1D(6, 3, padding="causal", activation="relu"), layer]
    stack += [layers.GRU(6), layers.Dropout(0.2), layers.Dense(4, activation="softmax")]
    return keras.Sequential(stack, name="sequences")


def words() -> keras.Model:
    """An LSTM over 10 words of 50: yes or no."""
    keras.utils.set_random_seed(5)
    stack = [keras.Input((10,), dtype="int32"), layers.Embedding(50, 6), layers.LSTM(8)]
    model = keras.Sequential([*stack, layers.Dense(1)], name="words")
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    return model


def transformer() -> keras.Model:
    """One block (Vaswani et al. 2017, arXiv 1706.03762) over 8 words of 40: 3 classes."""
    keras.utils.set_random_seed(8)
    numbers = keras.Input((8,), dtype="int32")
    x = layers.Embedding(40, 8)(numbers)
    y = layers.LayerNormalization()(x)
    x = layers.Add()([x, layers.MultiHeadAttention(2, 4, dropout=0.1)(y, y)])
    y = layers.Dense(16, activation="gelu")(layers.LayerNormalization()(x))
    x = layers.Add()([x, layers.Dropout(0.1)(layers.Dense(8)(y))])
    end = layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling1D()(x))
    return keras.Model(numbers, end, name="transformer")


def adapted() -> keras.Model:
    """A classifier of columns that are brought to mean 0 and variance 1 by what was seen before."""
    keras.utils.set_random_seed(9)
    seen = keras.random.normal((50, 4), mean=3.0, stddev=2.0, seed=1)
    norm = layers.Normalization()
    norm.adapt(seen)
    columns = keras.Input((4,))
    x = Gate()(layers.Dense(6, activation="selu")(norm(columns)))
    return keras.Model(columns, layers.Dense(3, activation="softmax")(x), name="adapted")


class Gate(layers.Layer):  # type: ignore[misc]
    """A layer of somebody's own: x times the sigmoid of a weight for each channel."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        self.openness = self.add_weight(shape=(shape[-1],), initializer="ones", name="openness")

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return x * keras.ops.sigmoid(self.openness)


def regressor() -> keras.Model:
    """Three numbers of an image, by the squared error."""
    keras.utils.set_random_seed(6)
    stack = [keras.Input((12, 10, 2)), layers.Conv2D(6, 3, activation="elu"), layers.MaxPooling2D((2, 3))]
    stack += [layers.Flatten(), layers.Dense(16, activation="tanh"), layers.Dense(3)]
    model = keras.Sequential(stack, name="regressor")
    model.compile("sgd", "mse")
    return model


def table() -> keras.Model:
    """A regressor of 5 columns."""
    keras.utils.set_random_seed(7)
    stack = [keras.Input((5,)), layers.Dense(16, activation="softplus"), layers.Dense(1)]
    model = keras.Sequential(stack, name="table")
    model.compile("sgd", "mse")
    return model
