"""Normalisation of each example by itself: layer, RMS and group normalisation, in training and inference.

Ba et al. 2016 (arXiv 1607.06450), Zhang & Sennrich 2019 (arXiv 1910.07467), Wu & He 2018 (arXiv 1803.08494).
Sums go axis after axis: TFLite's over several axes add one number after the other, which loses digits.
"""

import math
from typing import Any

import keras
import tensorflow as tf

from fedfer.model.errors import ExportError


def layer_normalization(layer: Any, inputs: tf.Tensor) -> tf.Tensor:
    """keras.layers.LayerNormalization.call."""
    if layer.rms_scaling:
        raise ExportError(f"{layer.name}: rms_scaling cannot be exported; use RMSNormalization")
    axes = [axis % inputs.shape.rank for axis in tf.nest.flatten(layer.axis)]
    shape = [size if axis in axes else 1 for axis, size in enumerate(inputs.shape)]
    gamma = tf.reshape(layer.gamma, shape) if layer.gamma is not None else None
    beta = tf.reshape(layer.beta, shape) if layer.beta is not None else None
    return _normalised(inputs, axes, layer.epsilon, gamma, beta)


def rms_normalization(layer: Any, inputs: tf.Tensor) -> tf.Tensor:
    """keras.layers.RMSNormalization.call."""
    axes = [axis % inputs.shape.rank for axis in tf.nest.flatten(layer.axis)]
    shape = [size if axis in axes else 1 for axis, size in enumerate(inputs.shape)]
    return _normalised(inputs, axes, layer.epsilon, tf.reshape(layer.scale, shape), None, centred=False)


def group_normalization(layer: Any, inputs: tf.Tensor) -> tf.Tensor:
    """keras.layers.GroupNormalization.call, over the last axis."""
    sizes = list(inputs.shape[1:])
    if None in sizes or layer.axis not in (-1, len(sizes)):
        raise ExportError(
            f"{layer.name}: only the last axis of images of fixed size can be normalised in groups"
        )
    places, channels = math.prod(sizes[:-1]), sizes[-1]
    apart = [1, 1, layer.groups, channels // layer.groups]
    gamma = tf.reshape(layer.gamma, apart) if layer.scale else None
    beta = tf.reshape(layer.beta, apart) if layer.center else None
    grouped = tf.reshape(inputs, [-1, places, *apart[2:]])
    return tf.reshape(_normalised(grouped, [1, 3], layer.epsilon, gamma, beta), [-1, *sizes])


def _normalised(
    x: tf.Tensor,
    axes: list[int],
    epsilon: float,
    gamma: tf.Tensor | None,
    beta: tf.Tensor | None,
    centred: bool = True,
) -> tf.Tensor:
    """gamma * (x - mean) / sqrt(variance + epsilon) + beta; without the mean if not `centred`."""
    if centred:
        x = x + (-_mean(x, axes))  # SUB of a smaller tensor is slow in tflite-runtime 2.14
    inverse = tf.math.rsqrt(_mean(x * x, axes) + epsilon)
    y = x * inverse if gamma is None else x * (inverse * gamma)
    return y if beta is None else y + beta


def _mean(x: tf.Tensor, axes: list[int]) -> tf.Tensor:
    for axis in sorted(axes, reverse=True):
        x = tf.reduce_mean(x, axis=axis, keepdims=True)
    return x


CALLS = {
    (keras.layers.LayerNormalization, "call"): layer_normalization,
    (keras.layers.RMSNormalization, "call"): rms_normalization,
    (keras.layers.GroupNormalization, "call"): group_normalization,
}
