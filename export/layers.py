"""Keras layers as they are traced for the phone: same mathematics, other operators."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import keras
import tensorflow as tf

from fedfer.export.convolution import convolve
from fedfer.export.normalization import train_batch_norm

_batch_norm_call = keras.layers.BatchNormalization.call
_flatten_call = keras.layers.Flatten.call
_convolution_op = keras.layers.Conv2D.convolution_op


@contextmanager
def phone_layers() -> Iterator[None]:
    """While active, these layers are called in the forms of this module."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(keras.layers.BatchNormalization, "call", _batch_norm))
        stack.enter_context(patch.object(keras.layers.Flatten, "call", _flatten))
        stack.enter_context(patch.object(keras.layers.Conv2D, "convolution_op", _convolve))
        yield


def _batch_norm(layer: Any, inputs: tf.Tensor, training: bool = False, mask: Any = None) -> tf.Tensor:
    """In training over the last axis: fedfer.export.normalization."""
    last = layer.axis in (-1, inputs.shape.rank - 1)
    if training and layer.trainable and last and mask is None:
        return train_batch_norm(layer, inputs)
    return _batch_norm_call(layer, inputs, training=training, mask=mask)


def _flatten(layer: Any, inputs: tf.Tensor) -> tf.Tensor:
    """A reshape to constants; Keras computes the shape (see fedfer.export.dropout on computed shapes)."""
    sizes = list(inputs.shape[1:])
    if None in sizes or layer.data_format != "channels_last":
        return _flatten_call(layer, inputs)
    return tf.reshape(inputs, [-1, math.prod(sizes)])


def _convolve(layer: Any, inputs: tf.Tensor, kernel: Any) -> tf.Tensor:
    """Plain convolutions with stride 1: fedfer.export.convolution."""
    plain = tuple(layer.strides) == (1, 1) and layer.groups == 1 and layer.data_format == "channels_last"
    if not plain or None in inputs.shape[1:]:
        return _convolution_op(layer, inputs, kernel)
    filters = tf.convert_to_tensor(kernel)
    return convolve(inputs, filters, layer.padding.upper(), list(layer.dilation_rate))
