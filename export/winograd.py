"""3x3 convolutions with stride 1 as 16 matrix products a tile of 2x2 outputs instead of 36: Winograd's
minimal filtering algorithm F(2x2, 3x3) as in Lavin & Gray 2015 (arXiv 1509.09308), equations 8 to 11.

    Y = A' [ (G g G') * (B' d B) ] A       of tiles d (4x4 places of x, two apart), filters g, outputs Y (2x2)
    dg = G' [ (B' d B)' (A dY A') ] G      its transpose, summed over all tiles (' is a matrix's transpose)

B and A hold only 0, 1 and -1, G also halves: results differ from a plain sum in the last digits only. All
operators are products, sums and slices with stride 1 (those with larger strides are slow in LiteRT).
x [B,H,W,C], filters [3,3,C,F], y and dy [B,h,w,F], all float32; only B may be unknown.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from fedfer.export.padding import Pads, image_size, join, pad_images
from fedfer.export.winograd_dense import G, times

WINDOW = [3, 3]
Tiles = list[list[tf.Tensor]]  # [4][4] batches of one matrix: a row for each tile, a column for each channel


def convolve_tiles(x: tf.Tensor, filters: tf.Tensor, pads: Pads, turned: bool = False) -> tf.Tensor:
    """The convolution; `turned`: with the filters turned by half a turn, C and F exchanged."""
    # The transpose comes before the tiles: with one in a product, LiteRT runs it without XNNPACK.
    kernels = _filter_tiles(tf.transpose(filters, [0, 1, 3, 2]) if turned else filters)
    # Half a turn exchanges the first row of G g with the last.
    order = [3, 1, 2, 0] if turned else [0, 1, 2, 3]
    seen = _input_tiles(x, pads)
    products = [[tf.matmul(seen[i][j], kernels[order[i]][order[j]]) for j in range(4)] for i in range(4)]
    columns = [_inverse([products[i][j] for i in range(4)]) for j in range(4)]
    phases = [part for r in range(2) for part in _inverse([column[r] for column in columns])]
    height, width = _output_size(x, pads)
    tiles = [-1, _halves(height), _halves(width), int(filters.shape[2 if turned else 3])]
    together = tf.concat([tf.reshape(phase, tiles) for phase in phases], axis=3)
    whole = tf.nn.depth_to_space(together, 2)
    return whole if height % 2 == width % 2 == 0 else whole[:, :height, :width, :]


def filter_gradient(x: tf.Tensor, dy: tf.Tensor, pads: Pads) -> tf.Tensor:
    """dg, given dy."""
    seen, slopes = _input_tiles(x, pads), _gradient_tiles(dy)
    sums = [tf.matmul(seen[i][j], slopes[i][j], transpose_a=True) for i in range(4) for j in range(4)]
    taps = times(G.T * np.array([1, 1, 1, -1], np.float32), join(sums, axis=0))
    return tf.reshape(taps, [*WINDOW, x.shape[3], dy.shape[3]])


def _output_size(x: tf.Tensor, pads: Pads) -> list[int]:
    return [n + sum(p) - 2 for n, p in zip(image_size(x), pads, strict=True)]


def _halves(size: int) -> int:
    return -(-size // 2)


def _input_tiles(x: tf.Tensor, pads: Pads) -> Tiles:
    """B' d B of every tile."""
    odd = [size % 2 for size in _output_size(x, pads)]
    padded = pad_images(x, [[first, last + more] for (first, last), more in zip(pads, odd, strict=True)])
    (height, width), channels = image_size(padded), int(x.shape[3])
    down, along = height // 2 - 1, width // 2 - 1
    rows = tf.reshape(padded, [-1, down + 1, 2, width * channels])
    places = [rows[:, i // 2 : i // 2 + down, i % 2 : i % 2 + 1, :] for i in range(4)]
    result = []
    for row in _spread(places):
        pairs = tf.reshape(row, [-1, down, along + 1, 2 * channels])
        seen = [
            pairs[:, :, j // 2 : j // 2 + along, (j % 2) * channels : (j % 2 + 1) * channels]
            for j in range(4)
        ]
        result.append([tf.reshape(tile, [1, -1, channels]) for tile in _spread(seen)])
    return result


def _gradient_tiles(dy: tf.Tensor) -> Tiles:
    """A dY A' of every tile, those of row 3 and column 3 negated (`filter_gradient` takes that back)."""
    odd = [size % 2 for size in image_size(dy)]
    padded = pad_images(dy, [[0, more] for more in odd])
    (height, width), channels = image_size(padded), int(dy.shape[3])
    rows = tf.reshape(padded, [-1, height // 2, 2, width * channels])
    result = []
    for row in _fan([rows[:, :, :1, :], rows[:, :, 1:, :]]):
        pairs = tf.reshape(row, [-1, height // 2, width // 2, 2 * channels])
        both = [pairs[:, :, :, :channels], pairs[:, :, :, channels:]]
        result.append([tf.reshape(tile, [1, -1, channels]) for tile in _fan(both)])
    return result


def _filter_tiles(filters: tf.Tensor) -> Tiles:
    """G g G', each as a batch of one. (A slice that drops its axis would be slow in LiteRT.)"""
    stack = tf.reshape(times(G, filters), [16, *filters.shape[2:]])
    return [[stack[k : k + 1, :, :] for k in range(4 * i, 4 * i + 4)] for i in range(4)]


def _spread(d: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """B' of four places."""
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _inverse(m: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """A' of four products."""
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def _fan(y: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """A of two outputs, the last one negated."""
    return [y[0], y[0] + y[1], y[0] - y[1], y[1]]
