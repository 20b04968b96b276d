"""Winograd's 3x3 convolutions (fedfer.export.winograd) for small images: all tiles in one tensor.

The sums of B, G and A are products with constant matrices, and the 16 products one batch of them: a quarter
of the operators, and of their bytes in the file, for four times the memory of the images, which is little for
small ones. Stacks are [16, N, C]: place (i, j) of a tile is number 4 i + j, N counts tiles.
"""

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from fedfer.export.padding import Pads, image_size, pad_images

B = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], np.float32)  # B' of the paper
G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)
A = np.array([[1, 1, 1, 0], [0, 1, -1, -1]], np.float32)  # A' of the paper
SHIFTS = [(0, 0), (0, 1), (1, 0), (1, 1)]  # of tiles, in pairs of rows and of columns
TURNED = [3, 1, 2, 0]  # half a turn of the filters exchanges the first row of G g with the last


def convolve_stacked(x: tf.Tensor, filters: tf.Tensor, pads: Pads, turned: bool = False) -> tf.Tensor:
    """As fedfer.export.winograd.convolve_tiles. Both ways take the same G g G', made once a step."""
    channels, num_filters = filters.shape[2:]
    kernels = tf.reshape(times(G, filters), [16, channels, num_filters])
    by_tile = _turned_products(x, kernels, pads) if turned else _products(x, kernels, pads)
    height, width = [n + sum(p) - 2 for n, p in zip(image_size(x), pads, strict=True)]
    tiles = tf.reshape(by_tile, [-1, -(-height // 2), -(-width // 2), by_tile.shape[-1]])
    whole = tf.nn.depth_to_space(tiles, 2)
    return whole if height % 2 == width % 2 == 0 else whole[:, :height, :width, :]


def _products(x: tf.Tensor, kernels: tf.Tensor, pads: Pads) -> tf.Tensor:
    """A' of the tiles' products with `kernels` [16,C,F]: [N,4F]."""
    num_filters = int(kernels.shape[2])
    outputs = times(A, tf.matmul(_input_stack(x, pads), kernels))
    by_tile = tf.transpose(tf.reshape(outputs, [4, -1, num_filters]), [1, 0, 2])
    return tf.reshape(by_tile, [-1, 4 * num_filters])


def _turned_products(dy: tf.Tensor, kernels: tf.Tensor, pads: Pads) -> tf.Tensor:
    """The same with C and F exchanged and the filters turned: [N,4C].

    The kernels stay on the left, the tiles come transposed: a product prepares its right side anew each time,
    and transposing the filters, or asking the product to, costs as much (in tflite-runtime three times).
    """
    channels, num_filters = [int(size) for size in kernels.shape[1:]]
    phases = tf.nn.space_to_depth(_even(dy, pads), 2)
    down, along = image_size(phases)
    rows = tf.transpose(tf.reshape(phases, [-1, 4 * num_filters]))
    phases = tf.reshape(rows, [4 * num_filters, -1, down, along])
    places = tf.concat([phases[:, :, i : i + down - 1, j : j + along - 1] for i, j in SHIFTS], axis=0)
    seen = tf.reshape(_times(_by_phase(B[TURNED]), places), [16, num_filters, -1])
    outputs = times(A[:, TURNED], tf.matmul(kernels, seen))
    return tf.transpose(tf.reshape(outputs, [4 * channels, -1]))


def filter_gradient_stacked(x: tf.Tensor, dy: tf.Tensor, pads: Pads) -> tf.Tensor:
    """As fedfer.export.winograd.filter_gradient."""
    num_filters = int(dy.shape[3])
    tiles = tf.nn.space_to_depth(pad_images(dy, [[0, n % 2] for n in image_size(dy)]), 2)
    by_place = tf.transpose(tf.reshape(tiles, [-1, 4, num_filters]), [1, 0, 2])
    slopes = times(A.T, by_place)
    sums = tf.matmul(_input_stack(x, pads), tf.reshape(slopes, [16, -1, num_filters]), transpose_a=True)
    taps = times(G.T, sums)
    return tf.reshape(taps, [3, 3, x.shape[3], num_filters])


def _input_stack(x: tf.Tensor, pads: Pads) -> tf.Tensor:
    """B' d B of every tile."""
    channels = int(x.shape[3])
    phases = tf.nn.space_to_depth(_even(x, pads), 2)
    down, along = image_size(phases)
    apart = tf.transpose(tf.reshape(phases, [-1, 4, channels]), [1, 0, 2])
    phases = tf.reshape(apart, [4, -1, down, along * channels])
    width = (along - 1) * channels
    places = [phases[:, :, i : i + down - 1, j * channels : j * channels + width] for i, j in SHIFTS]
    return tf.reshape(_times(_by_phase(B), tf.concat(places, axis=0)), [16, -1, channels])


def _by_phase(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """The sums that `matrix` makes of rows and of columns, of places that come by SHIFTS first, then by their
    phases in a pair of rows and a pair of columns."""
    both = np.kron(matrix, matrix)
    order = [4 * (2 * i + row) + 2 * j + column for i, j in SHIFTS for row in (0, 1) for column in (0, 1)]
    return both[:, order]


def _even(x: tf.Tensor, pads: Pads) -> tf.Tensor:
    """Padded, to even sizes."""
    odd = [(n + sum(p)) % 2 for n, p in zip(image_size(x), pads, strict=True)]
    return pad_images(x, [[first, last + more] for (first, last), more in zip(pads, odd, strict=True)])


def times(matrix: NDArray[np.float32], stack: tf.Tensor) -> tf.Tensor:
    """The sums that `matrix` makes of rows and of columns, for a stack whose first axes count both.

    A batch of one product: the converter would turn a plain one with a constant into one of transposes.
    """
    return _times(np.kron(matrix, matrix), stack)


def _times(matrix: NDArray[np.float32], stack: tf.Tensor) -> tf.Tensor:
    return tf.matmul(tf.constant(matrix[None]), tf.reshape(stack, [1, matrix.shape[1], -1]))
