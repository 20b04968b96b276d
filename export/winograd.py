"""3x3 convolutions with stride 1 as 16 matrix products a tile of 2x2 outputs instead of 36: Winograd's
minimal filtering algorithm F(2x2, 3x3) as in Lavin & Gray 2015 (arXiv 1509.09308), equations 8 to 11.

    Y = A' [ (G g G') * (B' d B) ] A       of tiles d (4x4 places of x, two apart), filters g, outputs Y (2x2)
    dg = G' [ (B' d B)' (A dY A') ] G      its transpose, summed over all tiles (' is a matrix's transpose)

B and A hold only 0, 1 and -1, G also halves: results differ from a plain sum in the last digits only. All
operators are products, sums and slices with stride 1 (those with larger strides are slow in LiteRT).
x [B,H,W,C], filters [3,3,C,F], y and dy [B,h,w,F], all float32; only B may be unknown.
"""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from fedfer.export.padding import Pads, image_size, join, pad_images
from fedfer.export.winograd_dense import TURNED, G, times

WINDOW = [3, 3]
Tiles = list[list[tf.Tensor]]  # [4][4] images [B,down,along,channels] with a place for each tile
Sums = Callable[[Sequence[tf.Tensor]], list[tf.Tensor]]


def convolve_tiles(x: tf.Tensor, filters: tf.Tensor, pads: Pads, turned: bool = False) -> tf.Tensor:
    """The convolution; `turned`: with the filters turned by half a turn, C and F exchanged."""
    # The transpose comes before the tiles: with one in a product, LiteRT runs it without XNNPACK.
    kernels = _filter_tiles(tf.transpose(filters, [0, 1, 3, 2]) if turned else filters)
    order = TURNED if turned else [0, 1, 2, 3]
    seen = _input_tiles(x, pads)
    # Rows of tiles as matrices: laid in one, each product would be a few per cent faster, and the reshape
    # before it, which copies, take a quarter of its time.
    products = [[tf.matmul(seen[i][j], kernels[order[i]][order[j]]) for j in range(4)] for i in range(4)]
    columns = [_inverse([products[i][j] for i in range(4)]) for j in range(4)]
    phases = [part for r in range(2) for part in _inverse([column[r] for column in columns])]
    height, width = _output_size(x, pads)
    whole = tf.nn.depth_to_space(tf.concat(phases, axis=3), 2)
    return whole if height % 2 == width % 2 == 0 else whole[:, :height, :width, :]


def filter_gradient(x: tf.Tensor, dy: tf.Tensor, pads: Pads) -> tf.Tensor:
    """dg, given dy. The sums are taken image by image: over a whole batch a product of so many terms takes
    twice as long, for its operands leave the cache."""
    seen, slopes = _input_tiles(x, pads), _gradient_tiles(dy)
    sums = [
        tf.reduce_sum(tf.matmul(_by_image(seen[i][j]), _by_image(slopes[i][j]), transpose_a=True), axis=0)
        for i in range(4)
        for j in range(4)
    ]
    taps = times(G.T * np.array([1, 1, 1, -1], np.float32), join(sums, axis=0))
    return tf.reshape(taps, [*WINDOW, x.shape[3], dy.shape[3]])


def _output_size(x: tf.Tensor, pads: Pads) -> list[int]:
    return [n + sum(p) - 2 for n, p in zip(image_size(x), pads, strict=True)]


def _input_tiles(x: tf.Tensor, pads: Pads) -> Tiles:
    """B' d B of every tile."""
    odd = [size % 2 for size in _output_size(x, pads)]
    padded = pad_images(x, [[first, last + more] for (first, last), more in zip(pads, odd, strict=True)])
    down, along = [size // 2 - 1 for size in image_size(padded)]
    return _both_ways(padded, 4, [down, along], _spread)


def _gradient_tiles(dy: tf.Tensor) -> Tiles:
    """A dY A' of every tile, those of row 3 and column 3 negated (`filter_gradient` takes that back)."""
    padded = pad_images(dy, [[0, size % 2] for size in image_size(dy)])
    return _both_ways(padded, 2, [size // 2 for size in image_size(padded)], _fan)


def _both_ways(images: tf.Tensor, window: int, count: list[int], sums: Sums) -> Tiles:
    """Sums of the `window` rows and columns that each of `count` (down, along) tiles sees."""
    channels = int(images.shape[3])
    pairs = tf.nn.space_to_depth(images, 2)  # channels of the even row, both columns, then of the odd row
    down, along = count
    rows = [
        pairs[:, i // 2 : i // 2 + down, :, i % 2 * 2 * channels : (i % 2 + 1) * 2 * channels]
        for i in range(window)
    ]
    columns = [
        [row[:, :, j // 2 : j // 2 + along, j % 2 * channels : (j % 2 + 1) * channels] for j in range(window)]
        for row in sums(rows)
    ]
    return [sums(places) for places in columns]


def _by_image(tiles: tf.Tensor) -> tf.Tensor:
    """[B,down,along,C] as [B,down*along,C]."""
    down, along, channels = tiles.shape[1:]
    return tf.reshape(tiles, [-1, down * along, channels])


def _filter_tiles(filters: tf.Tensor) -> Tiles:
    """G g G', each as a batch of one. (LiteRT splits in at most four without leaving XNNPACK's graph.)"""
    stack = tf.reshape(times(G, filters), [16, 1, *filters.shape[2:]])
    return [tf.split(row, 4) for row in tf.split(stack, 4)]


def _spread(d: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """B' of four places."""
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _inverse(m: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """A' of four products."""
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def _fan(y: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """A of two outputs, the last one negated."""
    return [y[0], y[0] + y[1], y[0] - y[1], y[1]]
