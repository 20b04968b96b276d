"""Dropout whose mask is a function of a seed, in integer operators that every TFLite runtime has.

Keras draws from stateless random ops (Flex), and TFLite's RANDOM_UNIFORM keeps a state that depends on
what the interpreter ran before. Here an element of a layer's mask comes from hashing its place with a seed
that is an input of `train`: the same seed, data and weights give the same weights, bit for bit, anywhere.

Every shape here is known once the batch size is, without running an operator: an operator whose output
shape is computed (RANGE, FILL, a RESHAPE to such a shape) makes the interpreter give up its planned memory
for everything that follows, and with it three times the memory.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import keras
import numpy as np
import tensorflow as tf

# Odd multipliers of splitmix's and murmur3's finalisers, as signed 32-bit numbers (products wrap around).
GOLDEN = -1640531527  # 0x9E3779B9
MIX_1 = -2048144789  # 0x85EBCA6B
MIX_2 = -1028477387  # 0xC2B2AE35
# Channels-last only: these drop whole channels.
SPATIAL = (keras.layers.SpatialDropout1D, keras.layers.SpatialDropout2D)


def hash32(x: tf.Tensor) -> tf.Tensor:
    """murmur3's 32-bit finaliser as far as phones can do it: i32 -> i32, the upper bits well mixed.

    RIGHT_SHIFT of i32 repeats the sign, so that x ^ (x >> s) is never negative: a bit is lost each time, and
    the last such step of murmur3 must be left out, or nothing would ever fall below a negative threshold.
    """
    for shift, multiplier in ((16, MIX_1), (13, MIX_2)):
        x = tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, tf.constant(shift))) * multiplier
    return x


def sample_numbers(labels: tf.Tensor) -> tf.Tensor:
    """1, 2, ... B as i32[B], from any i32[B]."""
    return tf.cumsum(tf.clip_by_value(labels, 1, 1))


def keep_mask(samples: tf.Tensor, sizes: list[int], rate: float, seed: tf.Tensor) -> tf.Tensor:
    """f32[B,*sizes]: 1/(1-rate) with probability 1-rate, else 0; by sample number, place and seed i32[1]."""
    seeds = hash32(samples * GOLDEN + seed)
    places = hash32(seed)
    for axis, size in enumerate(sizes):
        step = math.prod(sizes[axis + 1 :]) * GOLDEN
        offsets = np.arange(size, dtype=np.int64) * step
        wrapped = offsets.astype(np.int32).reshape([size, *[1] * (len(sizes) - axis - 1)])
        # By turns ADD and XOR: the converter would merge sums of constants into one as large as the layer.
        join = tf.add if axis % 2 == 0 else tf.bitwise.bitwise_xor
        places = join(places, tf.constant(wrapped))
    draws = hash32(tf.reshape(seeds, [-1, *[1] * len(sizes)]) + places)
    threshold = round(rate * 2**32) - 2**31
    return tf.cast(draws >= threshold, tf.float32) * (1.0 / (1.0 - rate))


@contextmanager
def seeded_dropout(seed: tf.Tensor, labels: tf.Tensor) -> Iterator[None]:
    """While active, Keras's dropout layers called in training draw their masks from `seed` i32[1].

    `labels` i32[B] tells the size of the batch. Each call takes the next number, so that two layers of
    the same size differ.
    """
    calls = iter(range(1, 2**31))
    samples = sample_numbers(labels)

    def call(layer: Any, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        if not training or layer.rate == 0:
            return inputs
        shared = layer.noise_shape or [None] * inputs.shape.rank
        if isinstance(layer, SPATIAL):
            shared = [None, *[1] * (inputs.shape.rank - 2), None]
        sizes = [size if fixed is None else fixed for size, fixed in zip(inputs.shape, shared, strict=True)]
        layer_seed = hash32(seed + next(calls) * GOLDEN % 2**31)
        return inputs * keep_mask(samples, sizes[1:], layer.rate, layer_seed)

    with ExitStack() as stack:
        for kind in (keras.layers.Dropout, *SPATIAL):  # each of SPATIAL has a `call` of its own
            stack.enter_context(patch.object(kind, "call", call))
        yield
