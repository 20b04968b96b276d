"""Convolutions as matrix products, forwards and backwards: over shifted images, or over tiles of transformed
ones (fedfer.export.winograd) where that is faster.

CONV_2D whose filter is not a constant misses the fast kernels of every runtime (25 GFLOP/s on one thread
against 60 to 120 of a matrix product) and would take half of a training step.
x [B,H,W,C], filters [kh,kw,C,F], y and dy [B,h,w,F], all float32; only B may be unknown.
"""

import math
from collections.abc import Callable, Sequence

import tensorflow as tf

from fedfer.export import winograd, winograd_dense
from fedfer.export.padding import Pads, every, image_size, join, pad_images, pads_of
from fedfer.export.windows import Windows, places_together, spread, spread_few
from fedfer.model.errors import ExportError

# Images with fewer channels are laid side by side until the product is this deep: shallow ones are slow.
MIN_DEPTH = 64
MIN_TILE_CHANNELS = 32
# Small images: one product as deep as the whole window, for each of more would go through all filters again.
MAX_JOINED_PIXELS = 6 * 6
MAX_STACKED_PIXELS = 12 * 12  # at 22x22 the stack of all tiles was 7 % slower, and four times the memory
OVERRIDES = {"Conv2D": "FedferConv2D"}
Gradient = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


def convolve(x: tf.Tensor, filters: tf.Tensor, padding: str, dilations: list[int]) -> tf.Tensor:
    """tf.nn.conv2d with stride 1, as products; `padding` is 'SAME' or 'VALID'."""
    pads = pads_of(padding, image_size(x), _window(filters), [1, 1], dilations)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def product(x: tf.Tensor, filters: tf.Tensor) -> tuple[tf.Tensor, Gradient]:
        def gradient(dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            to_filters = _filter_gradient(x, dy, _window(filters), [1, 1], dilations, pads)
            return _input_gradient(filters, dy, dilations, pads), to_filters

        return _sum_of_products(x, filters, dilations, pads), gradient

    return product(x, filters)


@tf.RegisterGradient("FedferConv2D")  # type: ignore[untyped-decorator]
def _conv2d_gradient(op: tf.Operation, dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    x, filters = op.inputs
    strides, dilations = op.get_attr("strides")[1:3], op.get_attr("dilations")[1:3]
    padding = op.get_attr("padding").decode()
    if op.get_attr("data_format") != b"NHWC" or filters.shape[2] != x.shape[3]:
        raise ExportError(f"{op.name}: only channels-last convolutions without groups can be exported")
    pads = pads_of(padding, image_size(x), _window(filters), strides, dilations)
    if strides == [1, 1]:
        to_x = _input_gradient(filters, dy, dilations, pads)
    else:
        to_x = spread(dy, filters, Windows(image_size(x), _window(filters), strides, dilations, pads))
    return to_x, _filter_gradient(x, dy, _window(filters), strides, dilations, pads)


def _in_tiles(images: tf.Tensor, filters: Sequence[int], dilations: list[int]) -> bool:
    """Whether tiles are faster: for few channels their sums take longer than the products saved, for small
    images transforming the filters does."""
    window, fewest = [*filters[:2]], min(filters[2:])
    three = window == winograd.WINDOW and dilations == [1, 1]
    return three and fewest >= MIN_TILE_CHANNELS and math.prod(image_size(images)) > MAX_JOINED_PIXELS


def _tiles_of(images: tf.Tensor) -> tuple[Callable[..., tf.Tensor], Callable[..., tf.Tensor]]:
    """The form of tiles for images of this size: convolution and filter gradient."""
    if math.prod(image_size(images)) <= MAX_STACKED_PIXELS:
        return winograd_dense.convolve_stacked, winograd_dense.filter_gradient_stacked
    return winograd.convolve_tiles, winograd.filter_gradient


def _window(filters: tf.Tensor) -> list[int]:
    return [int(size) for size in filters.shape[:2]]


def _shifts(window: list[int]) -> list[tuple[int, int]]:
    return [(i, j) for i in range(window[0]) for j in range(window[1])]


def _patches(
    x: tf.Tensor,
    window: list[int],
    size: list[int],
    strides: list[int],
    dilations: list[int],
    pads: Pads,
    most: int | None = None,
) -> list[tf.Tensor]:
    """x as each place of the window sees it: matrices [B*h*w, n*C], n neighbouring places side by side, of
    small images all, or at most so many."""
    padded = pad_images(x, pads)
    starts = [(i * dilations[0], j * dilations[1]) for i, j in _shifts(window)]
    shifted = [tf.reshape(every(padded, start, size, strides), [-1, x.shape[3]]) for start in starts]
    small = math.prod(image_size(x)) <= MAX_JOINED_PIXELS
    together = (most or len(shifted)) if small else -(-MIN_DEPTH // int(x.shape[3]))
    groups = [shifted[k : k + together] for k in range(0, len(shifted), together)]
    return [join(group, axis=1) for group in groups]


def _sum_of_products(x: tf.Tensor, filters: tf.Tensor, dilations: list[int], pads: Pads) -> tf.Tensor:
    """The convolution with stride 1: sum over the window of (x shifted) times (the filter there)."""
    if _in_tiles(x, filters.shape, dilations):
        return _tiles_of(x)[0](x, filters, pads)
    window, (channels, num_filters) = _window(filters), filters.shape[2:]
    size = [
        n + sum(p) - (k - 1) * d for n, p, k, d in zip(image_size(x), pads, window, dilations, strict=True)
    ]
    rows = tf.reshape(filters, [window[0] * window[1] * channels, num_filters])
    together = places_together(filters.shape, len(_shifts(window)))
    patches = _patches(x, window, size, [1, 1], dilations, pads, together)
    if len(patches) == 1:
        return tf.reshape(tf.matmul(patches[0], rows), [-1, *size, num_filters])
    result, done = None, 0
    for patch in patches:
        part = tf.matmul(patch, rows[done : done + patch.shape[1]])
        result, done = part if result is None else result + part, done + patch.shape[1]
    return tf.reshape(result, [-1, *size, num_filters])


def _input_gradient(filters: tf.Tensor, dy: tf.Tensor, dilations: list[int], pads: Pads) -> tf.Tensor:
    """For stride 1: the convolution of dy with the filters turned by half a turn, C and F exchanged."""
    window = _window(filters)
    reach = [(k - 1) * d for k, d in zip(window, dilations, strict=True)]
    around = [[r - first, r - last] for r, (first, last) in zip(reach, pads, strict=True)]
    if _in_tiles(dy, filters.shape, dilations):
        return _tiles_of(dy)[0](dy, filters, around, turned=True)
    if math.prod(image_size(dy)) <= MAX_JOINED_PIXELS:
        size = [n + r - sum(p) for n, r, p in zip(image_size(dy), reach, pads, strict=True)]
        return spread_few(dy, filters, Windows(size, window, [1, 1], dilations, pads))
    # REVERSE_V2 over two axes at once is silently wrong in tflite-runtime 2.14.
    flat = tf.reshape(filters, [window[0] * window[1], *filters.shape[2:]])
    turned = tf.transpose(tf.reverse(flat, [0]), [0, 2, 1])
    return _sum_of_products(dy, tf.reshape(turned, [*window, *turned.shape[1:]]), dilations, around)


def _filter_gradient(
    x: tf.Tensor, dy: tf.Tensor, window: list[int], strides: list[int], dilations: list[int], pads: Pads
) -> tf.Tensor:
    """dW[i,j] = (x as place (i,j) of the window sees it), transposed, times dy."""
    if strides == [1, 1] and _in_tiles(x, [*window, x.shape[3], dy.shape[3]], dilations):
        return _tiles_of(x)[1](x, dy, pads)
    rows = tf.reshape(dy, [-1, dy.shape[3]])
    patches = _patches(x, window, image_size(dy), strides, dilations, pads)
    parts = [tf.matmul(patch, rows, transpose_a=True) for patch in patches]
    return tf.reshape(join(parts, axis=0), [*window, x.shape[3], dy.shape[3]])
