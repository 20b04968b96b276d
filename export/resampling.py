"""Images and sequences made larger, by repeating or between neighbours, and the gradients of that."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from fedfer.export.padding import image_size
from fedfer.model.errors import ExportError

OVERRIDES = {"ResizeBilinear": "FedferResize", "ResizeNearestNeighbor": "FedferResize"}
_up_sampling_2d = keras.layers.UpSampling2D.call


def repeat(x: tf.Tensor, times: int, axis: int) -> tf.Tensor:
    """tf.repeat along an axis of known size: copies side by side in the next axis, or in a new one."""
    sizes = [-1 if size is None else size for size in x.shape]
    if times == 1:
        return x
    if axis == len(sizes) - 1:
        x = tf.reshape(x, [*sizes, 1])
    copies = tf.concat([x] * times, axis=axis + 1)
    return tf.reshape(copies, [*sizes[:axis], sizes[axis] * times, *sizes[axis + 1 :]])


def up_sampling_2d(layer: Any, inputs: tf.Tensor) -> tf.Tensor:
    """keras.layers.UpSampling2D.call."""
    if layer.data_format != "channels_last":
        raise ExportError(f"{layer.name}: channels_first cannot be exported; use channels_last")
    image_size(inputs)
    if layer.interpolation != "nearest":
        return _up_sampling_2d(layer, inputs)
    return repeat(repeat(inputs, layer.size[0], 1), layer.size[1], 2)


def up_sampling_1d(layer: Any, inputs: tf.Tensor) -> tf.Tensor:
    """keras.layers.UpSampling1D.call."""
    return repeat(inputs, int(layer.size), 1)


def repeat_vector(layer: Any, inputs: tf.Tensor) -> tf.Tensor:
    """keras.layers.RepeatVector.call."""
    return tf.concat([tf.reshape(inputs, [-1, 1, inputs.shape[1]])] * layer.n, axis=1)


@tf.RegisterGradient("FedferResize")  # type: ignore[untyped-decorator]
def _resize_gradient(op: tf.Operation, dy: tf.Tensor) -> tuple[tf.Tensor, None]:
    """Both directions are linear: products with the transposed matrices of weights."""
    x, bilinear = op.inputs[0], op.type == "ResizeBilinear"
    (height, width), channels = image_size(x), int(x.shape[3])
    rows, columns = image_size(dy)
    corners, centres = op.get_attr("align_corners"), op.get_attr("half_pixel_centers")
    across = tf.constant(resize_matrix(width, columns, bilinear, corners, centres).T)
    down = tf.constant(resize_matrix(height, rows, bilinear, corners, centres).T)
    narrow = tf.matmul(across[None], tf.reshape(dy, [-1, columns, channels]))
    tall = tf.reshape(narrow, [-1, rows, width * channels])
    return tf.reshape(tf.matmul(down[None], tall), [-1, height, width, channels]), None


def resize_matrix(
    before: int, after: int, bilinear: bool, align_corners: bool, half_pixel_centers: bool
) -> NDArray[np.float32]:
    """f32[after,before]: the share of each old place in each new one, as TensorFlow's resizing has it."""
    scale = (before - 1) / (after - 1) if align_corners and after > 1 else before / after
    places = np.arange(after)
    at = (places + 0.5) * scale - (0.5 if bilinear else 0.0) if half_pixel_centers else places * scale
    if bilinear:
        low = np.clip(np.floor(at), 0, before - 1)
        high = np.clip(np.floor(at) + 1, 0, before - 1)
        share = np.clip(at - low, 0, 1)
    else:
        low = high = np.clip(np.floor(at + 0.5 if align_corners else at), 0, before - 1)
        share = np.zeros(after)
    matrix = np.zeros((after, before), np.float32)
    np.add.at(matrix, (places, low.astype(int)), 1 - share)
    np.add.at(matrix, (places, high.astype(int)), share)
    return matrix


CALLS = {
    (keras.layers.UpSampling2D, "call"): up_sampling_2d,
    (keras.layers.UpSampling1D, "call"): up_sampling_1d,
    (keras.layers.RepeatVector, "call"): repeat_vector,
}
