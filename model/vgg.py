"""The article's network for 48x48 grey faces, in plain Keras: a VGG of four pairs of convolutions.

images f32[B,48,48,1] in 0..1 -> probabilities f32[B,7]. After Simonyan & Zisserman 2014 (arXiv 1409.1556)
with batch normalisation (Ioffe & Szegedy 2015, arXiv 1502.03167). Its 5,102,791 parameters, of which
3,840 are BatchNorm's moving statistics:

    conv1 bn1 conv2 bn2    64 filters of 3x3, conv1 without padding    46x46      38,080
    pool1 drop1            3x3 windows, stride 2, without padding      22x22
    conv3 bn3 conv4 bn4   128 filters                                  22x22     222,464
    pool2 drop2                                                        10x10
    conv5 bn5 conv6 bn6   256 filters                                  10x10     887,296
    pool3 drop3                                                        4x4
    conv7 bn7 conv8 bn8   512 filters                                  4x4     3,544,064
    pool4 drop4                                                        1x1
    dense1..3 drop5..7    512, 256 and 64 units                                  410,432
    probabilities         7, softmax                                                 455

This module and fedfer.model.mnist import Keras, and with it TensorFlow; no other of fedfer.model does.
"""

import keras
import numpy as np
from keras import layers

from fedfer.model.errors import UsageError
from fedfer.model.labels import IMAGE_SHAPE, NUM_LABELS
from fedfer.model.settings import BATCH_NORM_MOMENTUM, DROPOUT

PAIRS_OF_FILTERS = (64, 128, 256, 512)
DENSE_UNITS = (512, 256, 64)
MIN_WIDTH = 1 / 64  # one filter in the first pair


def build_vgg(
    dropout: float = DROPOUT,
    seed: int = 0,
    batch_norm_momentum: float = BATCH_NORM_MOMENTUM,
    width: float = 1.0,
) -> keras.Model:
    """The network, not compiled; `dropout` is the share of activations dropped after each block,
    `batch_norm_momentum` the share of BatchNorm's moving statistics that a step keeps, `width` the share of
    the table's filters and units (0.25: 321,079 parameters, for studies that the whole network is too slow
    for).

    The same seed gives the same weights bit for bit, whatever was drawn before. Raises UsageError.
    """
    if not 0 <= dropout < 1:
        raise UsageError(f"expected a dropout of at least 0 and below 1; received {dropout}")
    if not 0 <= batch_norm_momentum < 1:
        raise UsageError(f"expected a momentum of at least 0 and below 1; received {batch_norm_momentum}")
    if seed < 0:
        raise UsageError(f"expected a seed of at least 0; received {seed}")
    if not MIN_WIDTH <= width <= 1:
        raise UsageError(f"expected a width of {MIN_WIDTH:g} to 1; received {width}")
    stack: list[keras.Layer] = [keras.Input(IMAGE_SHAPE, name="images")]
    for pair, full in enumerate(PAIRS_OF_FILTERS, start=1):
        filters = round(full * width)
        for number in (2 * pair - 1, 2 * pair):
            padding = "valid" if number == 1 else "same"
            stack += [
                _convolution(number, filters, padding, seed),
                layers.BatchNormalization(momentum=batch_norm_momentum, name=f"bn{number}"),
            ]
        stack += [layers.MaxPooling2D(3, strides=2, name=f"pool{pair}"), _dropout(pair, dropout, seed)]
    stack.append(layers.Flatten(name="flatten"))
    for number, units in enumerate(DENSE_UNITS, start=1):
        stack += [
            _dense(f"dense{number}", round(units * width), "relu", seed),
            _dropout(len(PAIRS_OF_FILTERS) + number, dropout, seed),
        ]
    stack.append(_dense("probabilities", NUM_LABELS, "softmax", seed))
    return keras.Sequential(stack, name="vgg_fer" if width == 1 else "vgg_fer_narrow")


def _convolution(number: int, filters: int, padding: str, seed: int) -> keras.Layer:
    name = f"conv{number}"
    initial = keras.initializers.GlorotUniform(_layer_seed(seed, name))
    return layers.Conv2D(
        filters, 3, padding=padding, activation="relu", kernel_initializer=initial, name=name
    )


def _dense(name: str, units: int, activation: str, seed: int) -> keras.Layer:
    initial = keras.initializers.GlorotUniform(_layer_seed(seed, name))
    return layers.Dense(units, activation=activation, kernel_initializer=initial, name=name)


def _dropout(number: int, dropout: float, seed: int) -> keras.Layer:
    name = f"drop{number}"
    return layers.Dropout(dropout, seed=_layer_seed(seed, name), name=name)


def _layer_seed(seed: int, name: str) -> int:
    """A seed of its own for each layer: layers of equal shape must not start with equal weights."""
    return int(np.random.SeedSequence([seed, *name.encode()]).generate_state(1)[0] >> 1)
