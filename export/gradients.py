"""Gradients made of operators that every TFLite runtime has, for ops whose TensorFlow gradient has none.

TensorFlow differentiates Conv2D, MaxPool and Relu into Conv2DBackpropFilter, MaxPoolGrad and ReluGrad,
which exist on a phone only through the Flex delegate. While `builtin_gradients(graph)` is active, ops that
are added to the graph get gradients from here, fedfer.export.convolution and fedfer.export.broadcast; what
they compute is the same (the tests compare).
"""

from contextlib import AbstractContextManager

import tensorflow as tf

from fedfer.export import broadcast, convolution
from fedfer.export.padding import every, image_size, pad_images, pads_of
from fedfer.model.errors import ExportError

# Largest factor that keeps 0 at 0 and lifts every normal float32 to at least 1 (inf is clamped to 1).
SATURATE = 3e38
OVERRIDES = {"MaxPool": "FedferMaxPool", "Relu": "FedferRelu", **convolution.OVERRIDES, **broadcast.OVERRIDES}


def builtin_gradients(graph: tf.Graph) -> AbstractContextManager[None]:
    """Context in which ops added to `graph` take the gradients of fedfer."""
    context: AbstractContextManager[None] = graph.gradient_override_map(OVERRIDES)
    return context


@tf.RegisterGradient("FedferRelu")  # type: ignore[untyped-decorator]
def _relu_gradient(op: tf.Operation, dy: tf.Tensor) -> tf.Tensor:
    """dy where the output is above 0: the mask is one MUL with a fused clamp in the file.

    GREATER and CAST, the usual form, take ten times as long in tflite-runtime 2.14.
    """
    return dy * tf.clip_by_value(op.outputs[0] * SATURATE, -1.0, 1.0)


@tf.RegisterGradient("FedferMaxPool")  # type: ignore[untyped-decorator]
def _max_pool_gradient(op: tf.Operation, dy: tf.Tensor) -> tf.Tensor:
    """The first maximum of a window in row-major order takes its gradient, as in TensorFlow.

    One mask per place in the window; the sums of each phase (place modulo stride) are laid back
    between each other by DEPTH_TO_SPACE.
    """
    x, y = op.inputs[0], op.outputs[0]
    window, strides = op.get_attr("ksize")[1:3], op.get_attr("strides")[1:3]
    if strides[0] != strides[1]:
        raise ExportError(f"{op.name}: max-pooling strides {tuple(strides)} differ; expected equal ones")
    (height, width), padding = image_size(x), op.get_attr("padding").decode()
    (top, bottom), (left, right) = pads_of(padding, [height, width], window, strides, [1, 1])
    padded = pad_images(x, [[top, bottom], [left, right]], float(x.dtype.min))
    shares = _window_shares(padded, y, dy, window, strides)
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
    for i in range(window[0]):
        for j in range(window[1]):
            seen = every(padded, (i, j), image_size(y), strides)
            below = tf.clip_by_value((seen - y) * SATURATE, -1.0, 1.0)  # -1 below the maximum, 0 at it
            shares[i, j] = left_over + left_over * below
            left_over = left_over - shares[i, j]
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
