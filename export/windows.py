"""Windows laid over images, as convolutions and poolings do: what their places see, and sums laid back.

Images f32[B,H,W,C]; y and its gradient have a row and a column for each window, f32[B,h,w,...].
"""

import math
from dataclasses import dataclass

import tensorflow as tf

from fedfer.export.padding import Pads, every, image_size, pad_images, pads_of

# Numbers of filters in one product: runtimes keep a copy of its operands, rearranged, one or two more.
MAX_PRODUCT_FILTERS = 3 * 2**18
Place = tuple[int, int]  # row and column in a window, before dilation


@dataclass(frozen=True)
class Windows:
    """Where the windows lie on images of `size` (H, W); `pads` are the rows and columns around them."""

    size: list[int]
    window: list[int]
    strides: list[int]
    dilations: list[int]
    pads: Pads

    def places(self) -> list[Place]:
        """In row-major order."""
        return [(i, j) for i in range(self.window[0]) for j in range(self.window[1])]

    def offset(self, place: Place) -> Place:
        """Where the first window has this place, on the padded image."""
        return place[0] * self.dilations[0], place[1] * self.dilations[1]


def windows_of(op: tf.Operation, window: list[int]) -> Windows:
    """Those of a convolution or pooling of op.inputs[0]. Raises ExportError unless its size is fixed."""
    size, strides = image_size(op.inputs[0]), op.get_attr("strides")[1:3]
    dilated = op.type in ("Conv2D", "DepthwiseConv2dNative")
    dilations = op.get_attr("dilations")[1:3] if dilated else [1, 1]
    pads = pads_of(op.get_attr("padding").decode(), size, window, strides, dilations)
    return Windows(size, window, strides, dilations, pads)


def seen(padded: tf.Tensor, windows: Windows, place: Place, count: list[int]) -> tf.Tensor:
    """What `place` of each of `count` (h, w) windows sees of the padded images: [B,h,w,C]."""
    return every(padded, windows.offset(place), count, windows.strides)


def lay_back(shares: dict[Place, tf.Tensor], windows: Windows) -> tf.Tensor:
    """Sums shares [B,h,w,C] at the places of the image that they belong to: [B,H,W,C].

    The sums of each phase (place modulo stride) are laid back between each other.
    """
    (top, _), (left, _) = windows.pads
    height, width = windows.size
    whole = _sum_phases(shares, windows)
    # Rows and columns that no window reaches get no gradient.
    short = [max(0, top + height - whole.shape[1]), max(0, left + width - whole.shape[2])]
    whole = pad_images(whole, [[0, short[0]], [0, short[1]]])
    return whole[:, top : top + height, left : left + width, :]


def spread(y: tf.Tensor, filters: tf.Tensor, windows: Windows) -> tf.Tensor:
    """Each window's y [B,h,w,F] times filters [kh,kw,C,F], laid back: [B,H,W,C].

    This is the gradient of a convolution to its images, and the forward pass of a transposed one.
    """
    height, width, num_filters = y.shape[1:]
    rows = tf.reshape(y, [-1, num_filters])
    channels = filters.shape[2]
    flat = tf.reshape(filters, [windows.window[0] * windows.window[1], channels, num_filters])
    shares = {
        place: tf.reshape(tf.matmul(rows, flat[number], transpose_b=True), [-1, height, width, channels])
        for number, place in enumerate(windows.places())
    }
    return lay_back(shares, windows)


def spread_few(y: tf.Tensor, filters: tf.Tensor, windows: Windows) -> tf.Tensor:
    """`spread` of small images: products with the filters on their left. Their transpose on the right, as
    there, would have to be prepared at each step, which for few windows takes longer than the product."""
    height, width, num_filters = y.shape[1:]
    channels, places = int(filters.shape[2]), windows.places()
    rows = tf.reshape(filters, [1, len(places) * channels, num_filters])
    # A product that transposes its right side itself would run without AVX in tflite-runtime 2.14.
    across = tf.reshape(tf.transpose(tf.reshape(y, [-1, num_filters])), [1, num_filters, -1])
    shares = {}
    together = places_together(filters.shape, len(places))
    for start in range(0, len(places), together):
        some = places[start : start + together]
        depth = len(some) * channels
        seen = tf.matmul(rows[:, start * channels : start * channels + depth], across)
        by_window = tf.reshape(tf.transpose(tf.reshape(seen, [depth, -1])), [-1, height, width, depth])
        for number, place in enumerate(some):
            shares[place] = by_window[:, :, :, number * channels : (number + 1) * channels]
    return lay_back(shares, windows)


def places_together(filters_shape: tf.TensorShape, num_places: int) -> int:
    """How many places of a window may share a product: it copies their filters, rearranged."""
    most = max(1, MAX_PRODUCT_FILTERS // int(math.prod(filters_shape[2:])))
    return -(-num_places // -(-num_places // most))


def _sum_phases(shares: dict[Place, tf.Tensor], windows: Windows) -> tf.Tensor:
    """Sums the shares on the padded image, which may come out larger: [B, s*(h+reach), t*(w+reach), C]."""
    strides = windows.strides
    reach = [(k - 1) * d // s for k, d, s in zip(windows.window, windows.dilations, strides, strict=True)]
    sums: dict[Place, tf.Tensor] = {}
    for place, share in shares.items():
        i, j = windows.offset(place)
        (down, row), (along, column) = divmod(i, strides[0]), divmod(j, strides[1])
        moved = pad_images(share, [[down, reach[0] - down], [along, reach[1] - along]])
        sums[row, column] = sums[row, column] + moved if (row, column) in sums else moved
    zeros = tf.zeros_like(sums[0, 0])
    rows, columns = range(strides[0]), range(strides[1])
    return _interleave([[sums.get((row, column), zeros) for column in columns] for row in rows])


def _interleave(phases: list[list[tf.Tensor]]) -> tf.Tensor:
    """[B,s*h,t*w,C] whose rows and columns come from phases[row % s][column % t], each [B,h,w,C]."""
    if len(phases) == len(phases[0]):
        flat = [phase for row in phases for phase in row]
        return flat[0] if len(flat) == 1 else tf.nn.depth_to_space(tf.concat(flat, axis=3), len(phases))
    height, width, channels = phases[0][0].shape[1:]
    columns, rows = len(phases[0]) * width, len(phases) * height
    wide = [tf.reshape(tf.concat(row, axis=3), [-1, height, columns, channels]) for row in phases]
    return tf.reshape(tf.concat(wide, axis=2), [-1, rows, columns, channels])
