"""Gradients made of operators that every TFLite runtime has, for ops whose TensorFlow gradient has none.

TensorFlow differentiates Conv2D, MaxPool, Relu and their like into Conv2DBackpropFilter, MaxPoolGrad,
ReluGrad and others, which exist on a phone only through the Flex delegate. While
`builtin_gradients(graph)` is active, ops that are added to the graph get gradients from here,
fedfer.export.convolution and fedfer.export.broadcast; what they compute is the same (the tests compare).
"""

from contextlib import AbstractContextManager

import numpy as np
import tensorflow as tf

from fedfer.export import broadcast, convolution
from fedfer.export.normalization import sum_all_but_last
from fedfer.export.padding import Pads, every, image_size, pad_images, pads_of
from fedfer.model.errors import ExportError

# Largest factor that keeps 0 at 0 and lifts every normal float32 to at least 1 (inf is clamped to 1).
SATURATE = 3e38
OVERRIDES = {
    "MaxPool": "FedferMaxPool",
    "AvgPool": "FedferAvgPool",
    "DepthwiseConv2dNative": "FedferDepthwiseConv2d",
    "Relu": "FedferRelu",
    "Relu6": "FedferRelu6",
    **convolution.OVERRIDES,
    **broadcast.OVERRIDES,
}


def builtin_gradients(graph: tf.Graph) -> AbstractContextManager[None]:
    """Context in which ops added to `graph` take the gradients of fedfer."""
    context: AbstractContextManager[None] = graph.gradient_override_map(OVERRIDES)
    return context


@tf.RegisterGradient("FedferRelu")  # type: ignore[untyped-decorator]
def _relu_gradient(op: tf.Operation, dy: tf.Tensor) -> tf.Tensor:
    """dy where the output is above 0: the mask is one MUL with a fused clamp in the file.

    GREATER and CAST, the usual form, take ten times as long in tflite-runtime 2.14.
    """
    return dy * _step(op.outputs[0])


@tf.RegisterGradient("FedferRelu6")  # type: ignore[untyped-decorator]
def _relu6_gradient(op: tf.Operation, dy: tf.Tensor) -> tf.Tensor:
    """dy where the output is above 0 and below 6."""
    y = op.outputs[0]
    return dy * (_step(y) * _step(6.0 - y))


def _step(never_negative: tf.Tensor) -> tf.Tensor:
    """1 above 0, 0 at 0."""
    return tf.clip_by_value(never_negative * SATURATE, -1.0, 1.0)


@tf.RegisterGradient("FedferDepthwiseConv2d")  # type: ignore[untyped-decorator]
def _depthwise_gradient(op: tf.Operation, dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """x [B,H,W,C], filters [kh,kw,C,1]: each place of the window takes dy times its filter, and its filter
    the sum of dy times what it sees."""
    x, filters = op.inputs
    if filters.shape[3] != 1 or op.get_attr("dilations")[1:3] != [1, 1]:
        raise ExportError(
            f"{op.name}: depthwise convolutions with a multiplier or dilation cannot be exported"
        )
    window, strides, pads = _windows(op, [int(size) for size in filters.shape[:2]])
    padded, places = pad_images(x, pads), _places(window)
    shares = {(i, j): dy * tf.reshape(filters[i, j], [-1]) for i, j in places}
    sums = [sum_all_but_last(every(padded, place, image_size(dy), strides) * dy) for place in places]
    return _lay_back(shares, op, window), tf.reshape(tf.stack(sums), filters.shape)


@tf.RegisterGradient("FedferMaxPool")  # type: ignore[untyped-decorator]
def _max_pool_gradient(op: tf.Operation, dy: tf.Tensor) -> tf.Tensor:
    """The first maximum of a window in row-major order takes its gradient, as in TensorFlow."""
    x, y = op.inputs[0], op.outputs[0]
    window, strides, pads = _windows(op, op.get_attr("ksize")[1:3])
    padded = pad_images(x, pads, float(x.dtype.min))
    return _lay_back(_window_shares(padded, y, dy, window, strides), op, window)


@tf.RegisterGradient("FedferAvgPool")  # type: ignore[untyped-decorator]
def _average_pool_gradient(op: tf.Operation, dy: tf.Tensor) -> tf.Tensor:
    """Each place of a window takes an equal share; at the edges of 'SAME' those inside the image."""
    height, width = image_size(op.inputs[0])
    window, strides, pads = _windows(op, op.get_attr("ksize")[1:3])
    ones = np.pad(np.ones((height, width), np.float32), pads)
    counts = np.zeros(image_size(dy), np.float32)
    for i, j in _places(window):
        down, along = (start + size * s for start, size, s in zip((i, j), counts.shape, strides, strict=True))
        counts += ones[i : down : strides[0], j : along : strides[1]]
    share = dy * tf.constant(1.0 / counts[None, :, :, None])
    return _lay_back(dict.fromkeys(_places(window), share), op, window)


def _places(window: list[int]) -> list[tuple[int, int]]:
    """The window's places in row-major order."""
    return [(i, j) for i in range(window[0]) for j in range(window[1])]


def _windows(op: tf.Operation, window: list[int]) -> tuple[list[int], list[int], Pads]:
    """Window, strides and pads. Raises ExportError for strides that differ."""
    strides, padding = op.get_attr("strides")[1:3], op.get_attr("padding").decode()
    if strides[0] != strides[1]:
        raise ExportError(f"{op.name}: strides {tuple(strides)} differ; expected equal ones")
    return window, strides, pads_of(padding, image_size(op.inputs[0]), window, strides, [1, 1])


def _lay_back(shares: dict[tuple[int, int], tf.Tensor], op: tf.Operation, window: list[int]) -> tf.Tensor:
    """Sums each window's shares at the places of the image that they belong to.

    The sums of each phase (place modulo stride) are laid back between each other by DEPTH_TO_SPACE.
    """
    _, strides, ((top, _), (left, _)) = _windows(op, window)
    height, width = image_size(op.inputs[0])
    whole = _scatter_phases(shares, window, strides[0])
    # Rows and columns that no window reaches get no gradient.
    short = [max(0, top + height - whole.shape[1]), max(0, left + width - whole.shape[2])]
    whole = pad_images(whole, [[0, short[0]], [0, short[1]]])
    return whole[:, top : top + height, left : left + width, :]


def _window_shares(
    padded: tf.Tensor, y: tf.Tensor, dy: tf.Tensor, window: list[int], strides: list[int]
) -> dict[tuple[int, int], tf.Tensor]:
    """For each place (i, j) of the window: dy where that place holds the window's first maximum, else 0."""
    left_over, shares = dy, {}
    for place in _places(window):
        seen = every(padded, place, image_size(y), strides)
        below = tf.clip_by_value((seen - y) * SATURATE, -1.0, 1.0)  # -1 below the maximum, 0 at it
        shares[place] = left_over + left_over * below
        left_over = left_over - shares[place]
    return shares


def _scatter_phases(shares: dict[tuple[int, int], tf.Tensor], window: list[int], stride: int) -> tf.Tensor:
    """Sums the shares at the places they came from: [B, stride*(h+reach), stride*(w+reach), C]."""
    reach = [(k - 1) // stride for k in window]
    sums: dict[tuple[int, int], tf.Tensor] = {}
    for (i, j), share in shares.items():
        (down, row), (along, column) = divmod(i, stride), divmod(j, stride)
        moved = pad_images(share, [[down, reach[0] - down], [along, reach[1] - along]])
        sums[row, column] = sums[row, column] + moved if (row, column) in sums else moved
    zeros = tf.zeros_like(sums[0, 0])
    phases = [sums.get((row, column), zeros) for row in range(stride) for column in range(stride)]
    return phases[0] if stride == 1 else tf.nn.depth_to_space(tf.concat(phases, axis=3), stride)
