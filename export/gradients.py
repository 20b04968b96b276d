"""Gradients made of operators that every TFLite runtime has, for ops whose TensorFlow gradient has none.

TensorFlow differentiates Conv2D, MaxPool and Relu into Conv2DBackpropFilter, MaxPoolGrad and ReluGrad,
which exist on a phone only through the Flex delegate. While `builtin_gradients(graph)` is active, ops that
are added to the graph get the gradients below instead; what they compute is the same (the tests compare).
Tensors are float32 NHWC: x [B,H,W,C], dy [B,h,w,F], filters [kh,kw,C,F].
"""

from contextlib import AbstractContextManager

import tensorflow as tf

from fedfer.export import broadcast
from fedfer.model.errors import ExportError

# Largest factor that keeps 0 at 0 and lifts every normal float32 to at least 1 (inf is clamped to 1).
SATURATE = 3e38
Pads = list[list[int]]
OVERRIDES = {
    "Conv2D": "FedferConv2D",
    "MaxPool": "FedferMaxPool",
    "Relu": "FedferRelu",
    **broadcast.OVERRIDES,
}


def builtin_gradients(graph: tf.Graph) -> AbstractContextManager[None]:
    """Context in which ops added to `graph` take the gradients of this module."""
    context: AbstractContextManager[None] = graph.gradient_override_map(OVERRIDES)
    return context


def step_mask(nonnegative: tf.Tensor) -> tf.Tensor:
    """1 where the (never negative) value is above 0, else 0: one MUL with a fused clamp in the file.

    GREATER and CAST, the usual form, take ten times as long in tflite-runtime 2.14.
    """
    return tf.clip_by_value(nonnegative * SATURATE, -1.0, 1.0)


@tf.RegisterGradient("FedferRelu")  # type: ignore[untyped-decorator]
def _relu_gradient(op: tf.Operation, dy: tf.Tensor) -> tf.Tensor:
    return dy * step_mask(op.outputs[0])


@tf.RegisterGradient("FedferConv2D")  # type: ignore[untyped-decorator]
def _conv_gradient(op: tf.Operation, dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    x, filters = op.inputs
    strides, dilations = op.get_attr("strides")[1:3], op.get_attr("dilations")[1:3]
    if op.get_attr("data_format") != b"NHWC" or filters.shape[2] != x.shape[3]:
        raise ExportError(f"{op.name}: only channels-last convolutions without groups can be exported")
    size = [int(k) for k in filters.shape[:2]]
    pads = _padding(op.get_attr("padding"), _spatial(x), size, strides, dilations)
    to_input = _conv_input_gradient(x, filters, dy, op, pads)
    return to_input, _conv_filter_gradient(x, dy, size, strides, dilations, pads)


def _conv_input_gradient(
    x: tf.Tensor, filters: tf.Tensor, dy: tf.Tensor, op: tf.Operation, pads: Pads
) -> tf.Tensor:
    """TRANSPOSE_CONV for strided convolutions; else a convolution with the turned filter."""
    strides, dilations = op.get_attr("strides")[1:3], op.get_attr("dilations")[1:3]
    if strides != [1, 1]:
        if dilations != [1, 1]:
            raise ExportError(f"{op.name}: stride and dilation together cannot be exported; use one of them")
        return tf.nn.conv2d_transpose(dy, filters, tf.shape(x), strides, op.get_attr("padding").decode())
    turned = tf.transpose(_turn(filters), [0, 1, 3, 2])
    reach = [(int(k) - 1) * d for k, d in zip(filters.shape[:2], dilations, strict=True)]
    around = [[r - first, r - last] for r, (first, last) in zip(reach, pads, strict=True)]
    if op.get_attr("padding") == b"SAME" and around == pads:
        return tf.nn.conv2d(dy, turned, 1, "SAME", dilations=dilations)
    return tf.nn.conv2d(_pad(dy, around), turned, 1, "VALID", dilations=dilations)


def _turn(filters: tf.Tensor) -> tf.Tensor:
    """Filters turned by half a turn. REVERSE_V2 over two axes is silently wrong in tflite-runtime 2.14."""
    height, width, *channels = filters.shape
    flat = tf.reverse(tf.reshape(filters, [height * width, *channels]), [0])
    return tf.reshape(flat, filters.shape)


def _conv_filter_gradient(
    x: tf.Tensor, dy: tf.Tensor, size: list[int], strides: list[int], dilations: list[int], pads: Pads
) -> tf.Tensor:
    """dW[i,j] = sum over images and places of x shifted by (i,j), transposed, times dy: one product each."""
    height, width = _spatial(dy)
    padded = _pad(x, pads)
    rows = tf.reshape(dy, [-1, dy.shape[3]])
    parts = []
    for i in range(size[0]):
        for j in range(size[1]):
            top, left = i * dilations[0], j * dilations[1]
            bottom, right = top + (height - 1) * strides[0] + 1, left + (width - 1) * strides[1] + 1
            shifted = padded[:, top : bottom : strides[0], left : right : strides[1], :]
            parts.append(tf.matmul(tf.reshape(shifted, [-1, x.shape[3]]), rows, transpose_a=True))
    return tf.reshape(tf.stack(parts), [*size, x.shape[3], dy.shape[3]])


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
    (top, bottom), (left, right) = _padding(op.get_attr("padding"), _spatial(x), window, strides, [1, 1])
    lowest = float(x.dtype.min)
    padded = _pad(x, [[top, bottom], [left, right]], lowest)
    shares = _window_shares(padded, y, dy, window, strides[0])
    whole = _scatter_phases(shares, _spatial(y), window, strides[0])
    height, width = _spatial(x)
    short = [max(0, top + height - whole.shape[1]), max(0, left + width - whole.shape[2])]
    if any(short):  # rows and columns that no window reaches get no gradient
        whole = _pad(whole, [[0, short[0]], [0, short[1]]])
    return whole[:, top : top + height, left : left + width, :]


def _window_shares(
    padded: tf.Tensor, y: tf.Tensor, dy: tf.Tensor, window: list[int], stride: int
) -> dict[tuple[int, int], tf.Tensor]:
    """For each place (i, j) of the window: dy where that place holds the window's first maximum, else 0."""
    height, width = _spatial(y)
    left_over, shares = dy, {}
    for i in range(window[0]):
        for j in range(window[1]):
            last_row, last_column = i + (height - 1) * stride + 1, j + (width - 1) * stride + 1
            seen = padded[:, i:last_row:stride, j:last_column:stride, :]
            # -1 below the maximum, 0 at it
            below = tf.clip_by_value((seen - y) * SATURATE, -1.0, 1.0)
            shares[i, j] = left_over + left_over * below
            left_over = left_over - shares[i, j]
    return shares


def _scatter_phases(
    shares: dict[tuple[int, int], tf.Tensor], size: list[int], window: list[int], stride: int
) -> tf.Tensor:
    """Sums the shares at the places they came from: [B, stride*(h+reach), stride*(w+reach), C]."""
    reach = [(k - 1) // stride for k in window]
    phases = []
    for row in range(stride):
        for column in range(stride):
            parts = [
                _pad(share, [_shift(i // stride, reach[0]), _shift(j // stride, reach[1])])
                for (i, j), share in shares.items()
                if i % stride == row and j % stride == column
            ]
            phases.append(sum(parts[1:], parts[0]) if parts else None)
    zeros = tf.zeros_like(next(phase for phase in phases if phase is not None))
    phases = [zeros if phase is None else phase for phase in phases]
    return phases[0] if stride == 1 else tf.nn.depth_to_space(tf.concat(phases, axis=3), stride)


def _shift(by: int, reach: int) -> list[int]:
    return [by, reach - by]


def _pad(images: tf.Tensor, pads: Pads, value: float = 0.0) -> tf.Tensor:
    """Images with [[top, bottom], [left, right]] rows and columns of `value` around; themselves for none."""
    if pads == [[0, 0], [0, 0]]:
        return images
    return tf.pad(images, [[0, 0], *pads, [0, 0]], constant_values=value)


def _spatial(tensor: tf.Tensor) -> list[int]:
    """(H, W) of an image tensor: both must be fixed."""
    height, width = tensor.shape[1:3]
    if height is None or width is None:
        raise ExportError(f"{tensor.name}: image size is not fixed; give the model an input shape with one")
    return [int(height), int(width)]


def _padding(
    kind: bytes, size: list[int], window: list[int], strides: list[int], dilations: list[int]
) -> Pads:
    """[[top, bottom], [left, right]] that 'SAME' or 'VALID' adds; as in TensorFlow the odd one goes last."""
    if kind == b"VALID":
        return [[0, 0], [0, 0]]
    pads = []
    for n, k, s, d in zip(size, window, strides, dilations, strict=True):
        total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        pads.append([total // 2, total - total // 2])
    return pads
