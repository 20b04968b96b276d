"""Keras layers as they are traced for the phone: same mathematics, other operators."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import keras
import tensorflow as tf

from fedfer.export import convolution_layers, group_norms, recurrent, resampling
from fedfer.export.activations import gelu
from fedfer.export.normalization import train_batch_norm

_batch_norm_call = keras.layers.BatchNormalization.call
_dense_call = keras.layers.Dense.call
_flatten_call = keras.layers.Flatten.call
_reshape_call = keras.layers.Reshape.call


@contextmanager
def phone_layers() -> Iterator[None]:
    """While active, Keras's layers are called in the forms of CALLS."""
    with ExitStack() as stack:
        for (kind, method), call in CALLS.items():
            stack.enter_context(patch.object(kind, method, call))
        stack.enter_context(patch.object(tf.nn, "gelu", gelu))
        yield


def _batch_norm(layer: Any, inputs: tf.Tensor, training: bool = False, mask: Any = None) -> tf.Tensor:
    """In training over the last axis: fedfer.export.normalization."""
    last = layer.axis in (-1, inputs.shape.rank - 1)
    if training and layer.trainable and last and mask is None:
        return train_batch_norm(layer, inputs)
    return _batch_norm_call(layer, inputs, training=training, mask=mask)


def _dense(layer: Any, inputs: tf.Tensor, training: Any = None) -> tf.Tensor:
    """Of images or sequences: all their places as examples, in shapes that are not computed."""
    sizes = list(inputs.shape[1:-1])
    if not sizes or None in sizes:
        return _dense_call(layer, inputs, training=training)
    outputs = _dense_call(layer, tf.reshape(inputs, [-1, inputs.shape[-1]]), training=training)
    return tf.reshape(outputs, [-1, *sizes, outputs.shape[-1]])


def _flatten(layer: Any, inputs: tf.Tensor) -> tf.Tensor:
    """A reshape to constants; Keras computes the shape (see fedfer.export.dropout on computed shapes)."""
    sizes = list(inputs.shape[1:])
    if None in sizes or layer.data_format != "channels_last":
        return _flatten_call(layer, inputs)
    return tf.reshape(inputs, [-1, math.prod(sizes)])


def _reshape(layer: Any, inputs: tf.Tensor) -> tf.Tensor:
    """Likewise."""
    sizes = layer.compute_output_shape((None, *inputs.shape[1:]))[1:]
    if None in sizes:
        return _reshape_call(layer, inputs)
    return tf.reshape(inputs, [-1, *sizes])


CALLS = {
    (keras.layers.BatchNormalization, "call"): _batch_norm,
    (keras.layers.Dense, "call"): _dense,
    (keras.layers.Flatten, "call"): _flatten,
    (keras.layers.Reshape, "call"): _reshape,
    **convolution_layers.CALLS,
    **group_norms.CALLS,
    **recurrent.CALLS,
    **resampling.CALLS,
}
