"""Winograd's 3x3 convolutions (fedfer.export.winograd) for small images: all tiles in one tensor.

The sums of B, G and A are products with constant matrices, and the 16 products one batch of them: a quarter
of the operators, and of their bytes in the file, for four times the memory of the images, which is little for
small ones. Stacks are [16, N, C]: place (i, j) of a tile is number 4 i + j, N counts tiles.
"""

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from fedfer.export.padding import Pads, image_size, join, pad_images

B = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], np.float32)  # B' of the paper
G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)
A = np.array([[1, 1, 1, 0], [0, 1, -1, -1]], np.float32)  # A' of the paper
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
    rows = tf.transpose(tf.reshape(phases, [-1, 4 * num_filters]))
    phases = tf.reshape(rows, [4 * num_filters, -1, *phases.shape[1:3]])
    down, along = [int(n) - 1 for n in phases.shape[2:]]
    places = []
    for i in range(4):
        for j in range(4):
            first = (2 * (i % 2) + j % 2) * num_filters
            place = phases[first : first + num_filters, :, i // 2 : i // 2 + down, j // 2 : j // 2 + along]
            places.append(tf.reshape(place, [1, -1]))
    seen = tf.reshape(times(B[TURNED], join(places, axis=0)), [16, num_filters, -1])
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
    down, along = [n - 1 for n in image_size(phases)]
    places = []
    for i in range(4):
        for j in range(4):
            channel = (2 * (i % 2) + j % 2) * channels
            place = phases[:, i // 2 : i // 2 + down, j // 2 : j // 2 + along, channel : channel + channels]
            places.append(tf.reshape(place, [1, -1]))
    seen = times(B, join(places, axis=0))
    return tf.reshape(seen, [16, -1, channels])


def _even(x: tf.Tensor, pads: Pads) -> tf.Tensor:
    """Padded, to even sizes."""
    odd = [(n + sum(p)) % 2 for n, p in zip(image_size(x), pads, strict=True)]
    return pad_images(x, [[first, last + more] for (first, last), more in zip(pads, odd, strict=True)])


def times(matrix: NDArray[np.float32], stack: tf.Tensor) -> tf.Tensor:
    """The sums that `matrix` makes of rows and of columns, for a stack whose first axes count both.

    A batch of one product: the converter would turn a plain one with a constant into one of transposes.
    """
    both = np.kron(matrix, matrix)
    return tf.matmul(tf.constant(both[None]), tf.reshape(stack, [1, both.shape[1], -1]))
