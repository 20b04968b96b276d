"""Gradients made of operators that every TFLite runtime has, for ops whose TensorFlow gradient has none.

TensorFlow differentiates Conv2D, MaxPool, Relu and their like into Conv2DBackpropFilter, MaxPoolGrad,
ReluGrad and others, which exist on a phone only through the Flex delegate. While
`builtin_gradients(graph)` is active, ops that are added to the graph get gradients from here and from the
modules in OVERRIDES; what they compute is the same (the tests compare). No shape is computed when the file
runs (why: fedfer.export.dropout).
"""

from contextlib import AbstractContextManager

import numpy as np
import tensorflow as tf

from fedfer.export import activations, broadcast, convolution, reductions, resampling, slicing
from fedfer.export.activations import SATURATE
from fedfer.export.normalization import sum_all_but_last
from fedfer.export.padding import image_size, pad_images
from fedfer.export.windows import lay_back, seen, windows_of

OVERRIDES = {
    "MaxPool": "FedferMaxPool",
    "AvgPool": "FedferAvgPool",
    "DepthwiseConv2dNative": "FedferDepthwiseConv2d",
    **convolution.OVERRIDES,
    **activations.OVERRIDES,
    **broadcast.OVERRIDES,
    **reductions.OVERRIDES,
    **resampling.OVERRIDES,
    **slicing.OVERRIDES,
}


def builtin_gradients(graph: tf.Graph) -> AbstractContextManager[None]:
    """Context in which ops added to `graph` take the gradients of fedfer."""
    context: AbstractContextManager[None] = graph.gradient_override_map(OVERRIDES)
    return context


@tf.RegisterGradient("FedferDepthwiseConv2d")  # type: ignore[untyped-decorator]
def _depthwise_gradient(op: tf.Operation, dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """x [B,H,W,C], filters [kh,kw,C,M], dy [B,h,w,C*M]: each place of the window takes dy times its filter,
    and its filter the sum of dy times what it sees."""
    x, filters = op.inputs
    (height, width), (channels, multiplier) = image_size(x), filters.shape[2:]
    windows, count = windows_of(op, [int(size) for size in filters.shape[:2]]), image_size(dy)
    if multiplier > 1:
        copies = tf.concat([tf.reshape(x, [-1, height, width * channels, 1])] * multiplier, axis=3)
        x = tf.reshape(copies, [-1, height, width, channels * multiplier])
    padded, shares, sums = pad_images(x, windows.pads), {}, []
    for place in windows.places():
        share = dy * tf.reshape(filters[place[0], place[1]], [-1])
        if multiplier > 1:
            apart = tf.reshape(share, [-1, count[0], count[1] * channels, multiplier])
            share = tf.reshape(tf.reduce_sum(apart, axis=3), [-1, *count, channels])
        shares[place] = share
        sums.append(sum_all_but_last(seen(padded, windows, place, count) * dy))
    return lay_back(shares, windows), tf.reshape(tf.stack(sums), filters.shape)


@tf.RegisterGradient("FedferMaxPool")  # type: ignore[untyped-decorator]
def _max_pool_gradient(op: tf.Operation, dy: tf.Tensor) -> tf.Tensor:
    """The first maximum of a window in row-major order takes its gradient, as in TensorFlow."""
    x, y = op.inputs[0], op.outputs[0]
    windows = windows_of(op, op.get_attr("ksize")[1:3])
    padded = pad_images(x, windows.pads, float(x.dtype.min))
    left_over, shares = dy, {}
    *others, last = windows.places()
    for place in others:
        # 1 below the maximum, 0 at it
        below = tf.clip_by_value((y - seen(padded, windows, place, image_size(y))) * SATURATE, -1.0, 1.0)
        passed_on = left_over * below
        shares[place] = left_over - passed_on
        left_over = passed_on
    shares[last] = left_over
    return lay_back(shares, windows)


@tf.RegisterGradient("FedferAvgPool")  # type: ignore[untyped-decorator]
def _average_pool_gradient(op: tf.Operation, dy: tf.Tensor) -> tf.Tensor:
    """Each place of a window takes an equal share; at the edges of 'SAME' those inside the image."""
    windows, count = windows_of(op, op.get_attr("ksize")[1:3]), image_size(dy)
    ones = np.pad(np.ones(windows.size, np.float32), windows.pads)
    inside = np.zeros(count, np.float32)
    for place in windows.places():
        (top, left), strides = windows.offset(place), windows.strides
        bottom, right = top + count[0] * strides[0], left + count[1] * strides[1]
        inside += ones[top : bottom : strides[0], left : right : strides[1]]
    share = dy * tf.constant(1.0 / inside[None, :, :, None])
    return lay_back(dict.fromkeys(windows.places(), share), windows)
