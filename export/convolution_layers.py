"""Keras's convolution layers as they are traced for the phone: in one dimension, in groups, transposed.

Everything comes down to products over shifted images (fedfer.export.convolution) with stride 1, to CONV_2D
otherwise, and to sums laid back (fedfer.export.windows).
"""

from typing import Any

import keras
import tensorflow as tf

from fedfer.export.convolution import convolve
from fedfer.export.padding import image_size, pads_of
from fedfer.export.windows import Windows, spread
from fedfer.model.errors import ExportError


def convolution_op(layer: Any, inputs: tf.Tensor, kernel: Any) -> tf.Tensor:
    """keras.layers.Conv2D.convolution_op."""
    channels_last(layer)
    options = list(layer.strides), list(layer.dilation_rate), layer.padding.upper()
    if not layer.trainable and layer.groups == 1:  # its filters are constants of the file: CONV_2D is fast
        strides, dilations, padding = options
        return tf.nn.conv2d(inputs, tf.convert_to_tensor(kernel), strides, padding, dilations=dilations)
    return _grouped(inputs, tf.convert_to_tensor(kernel), layer.groups, *options)


def convolution_1d(layer: Any, inputs: tf.Tensor) -> tf.Tensor:
    """keras.layers.Conv1D.call: images of one row."""
    channels_last(layer)
    padding, (reach,) = layer.padding.upper(), [(k - 1) * d for k, d in _window_1d(layer)]
    if padding == "CAUSAL":
        inputs, padding = tf.pad(inputs, [[0, 0], [reach, 0], [0, 0]]), "VALID"
    row = tf.reshape(inputs, [-1, 1, *inputs.shape[1:]])
    kernel = tf.expand_dims(tf.convert_to_tensor(layer.kernel), 0)
    outputs = _grouped(row, kernel, layer.groups, [1, *layer.strides], [1, *layer.dilation_rate], padding)
    return _finished(layer, tf.reshape(outputs, [-1, *outputs.shape[2:]]))


def transposed_2d(layer: Any, inputs: tf.Tensor) -> tf.Tensor:
    """keras.layers.Conv2DTranspose.call."""
    channels_last(layer)
    size = layer.compute_output_shape((None, *inputs.shape[1:]))[1:3]
    kernel, strides = tf.convert_to_tensor(layer.kernel), list(layer.strides)
    return _finished(layer, _transposed(inputs, kernel, list(size), strides, layer))


def transposed_1d(layer: Any, inputs: tf.Tensor) -> tf.Tensor:
    """keras.layers.Conv1DTranspose.call: images of one row."""
    channels_last(layer)
    length = layer.compute_output_shape((None, *inputs.shape[1:]))[1]
    row = tf.reshape(inputs, [-1, 1, *inputs.shape[1:]])
    kernel = tf.expand_dims(tf.convert_to_tensor(layer.kernel), 0)
    outputs = _transposed(row, kernel, [1, length], [1, *layer.strides], layer)
    return _finished(layer, tf.reshape(outputs, [-1, *outputs.shape[2:]]))


def channels_last(layer: Any) -> None:
    """Raises ExportError for layers with the channels in front."""
    if layer.data_format != "channels_last":
        raise ExportError(
            f"{layer.name}: data_format {layer.data_format!r} cannot be exported; use channels_last"
        )


def _window_1d(layer: Any) -> list[tuple[int, int]]:
    return list(zip(layer.kernel_size, layer.dilation_rate, strict=True))


def _grouped(
    x: tf.Tensor, kernel: tf.Tensor, groups: int, strides: list[int], dilations: list[int], padding: str
) -> tf.Tensor:
    """Each group of channels with its own filters; their results side by side."""
    if groups == 1:
        return _convolve(x, kernel, strides, dilations, padding)
    parts = zip(tf.split(x, groups, axis=3), tf.split(kernel, groups, axis=3), strict=True)
    return tf.concat([_convolve(*part, strides, dilations, padding) for part in parts], axis=3)


def _convolve(
    x: tf.Tensor, kernel: tf.Tensor, strides: list[int], dilations: list[int], padding: str
) -> tf.Tensor:
    image_size(x)
    if strides == [1, 1]:
        return convolve(x, kernel, padding, dilations)
    return tf.nn.conv2d(x, kernel, strides, padding, dilations=dilations)


def _transposed(
    x: tf.Tensor, kernel: tf.Tensor, size: list[int], strides: list[int], layer: Any
) -> tf.Tensor:
    """x [B,h,w,F], kernel [kh,kw,C,F] -> [B,*size,C]."""
    image_size(x)
    if set(layer.dilation_rate) != {1}:
        raise ExportError(f"{layer.name}: transposed and dilated cannot be exported; use dilation_rate=1")
    window, dilations = [int(n) for n in kernel.shape[:2]], [1, 1]
    pads = pads_of(layer.padding.upper(), size, window, strides, dilations)
    return spread(x, kernel, Windows(size, window, strides, dilations, pads))


def _finished(layer: Any, outputs: tf.Tensor) -> tf.Tensor:
    """With the layer's bias and activation."""
    if layer.use_bias:
        outputs = tf.nn.bias_add(outputs, tf.convert_to_tensor(layer.bias))
    return outputs if layer.activation is None else layer.activation(outputs)


CALLS = {
    (keras.layers.Conv2D, "convolution_op"): convolution_op,
    (keras.layers.Conv1D, "call"): convolution_1d,
    (keras.layers.Conv2DTranspose, "call"): transposed_2d,
    (keras.layers.Conv1DTranspose, "call"): transposed_1d,
}
