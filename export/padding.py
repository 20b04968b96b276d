"""Sizes and paddings of images f32[B,H,W,C], as numbers known before anything runs."""

import tensorflow as tf

from fedfer.model.errors import ExportError

Pads = list[list[int]]  # [[top, bottom], [left, right]]
NO_PADS: Pads = [[0, 0], [0, 0]]


def image_size(images: tf.Tensor) -> list[int]:
    """(H, W): both must be fixed. Raises ExportError."""
    height, width = images.shape[1:3]
    if height is None or width is None:
        raise ExportError(f"{images.name}: image size is not fixed; give the model an input shape with one")
    return [int(height), int(width)]


def pads_of(
    padding: str, size: list[int], window: list[int], strides: list[int], dilations: list[int]
) -> Pads:
    """What 'SAME' or 'VALID' adds around images of `size`; as in TensorFlow the odd one goes last."""
    if padding == "VALID":
        return NO_PADS
    pads = []
    for n, k, s, d in zip(size, window, strides, dilations, strict=True):
        total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        pads.append([total // 2, total - total // 2])
    return pads


def pad_images(images: tf.Tensor, pads: Pads, value: float = 0.0) -> tf.Tensor:
    """Images with rows and columns of `value` around; themselves for no pads."""
    if pads == NO_PADS:
        return images
    return tf.pad(images, [[0, 0], *pads, [0, 0]], constant_values=value)


def join(parts: list[tf.Tensor], axis: int) -> tf.Tensor:
    """tf.concat by fours: LiteRT leaves one of more than five to slower code, outside XNNPACK's graph."""
    while len(parts) > 1:
        parts = [
            tf.concat(parts[k : k + 4], axis) if k + 1 < len(parts) else parts[k]
            for k in range(0, len(parts), 4)
        ]
    return parts[0]


def every(images: tf.Tensor, start: tuple[int, int], size: list[int], strides: list[int]) -> tf.Tensor:
    """`size` rows and columns of the images from `start` on, every `strides`-th.

    Slices with strides above 1 are slow in LiteRT: `strides` rows and columns are laid side by side instead,
    so that one of them is a slice without strides.
    """
    if strides == [1, 1]:
        return images[:, start[0] : start[0] + size[0], start[1] : start[1] + size[1], :]
    multiples = [[0, -n % s] for n, s in zip(image_size(images), strides, strict=True)]
    images = pad_images(images, multiples)
    (height, width), channels = image_size(images), int(images.shape[3])
    if strides[0] == strides[1]:
        (row, down), (column, along) = (divmod(at, strides[0]) for at in start)
        phases = tf.nn.space_to_depth(images, strides[0])
        first = (down * strides[0] + along) * channels
        return phases[:, row : row + size[0], column : column + size[1], first : first + channels]
    rows = tf.reshape(images, [-1, height // strides[0], strides[0], width * channels])
    row, phase = divmod(start[0], strides[0])
    row_images = rows[:, row : row + size[0], phase : phase + 1, :]
    columns = tf.reshape(row_images, [-1, size[0], width // strides[1], strides[1] * channels])
    column, phase = divmod(start[1], strides[1])
    return columns[:, :, column : column + size[1], phase * channels : (phase + 1) * channels]
