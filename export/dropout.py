"""Dropout whose mask is a function of a seed, in integer operators that every TFLite runtime has.

Keras draws from stateless random ops (Flex), and TFLite's RANDOM_UNIFORM keeps a state that depends on what
the interpreter ran before. Here element i of a layer's mask comes from hashing i with a seed that is an input of
`train`, so the same seed, data and weights give the same weights, bit for bit, in any process.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import keras
import tensorflow as tf

# Odd multipliers of splitmix/murmur finalisers, as signed 32-bit numbers (products wrap around).
GOLDEN = -1640531527  # 0x9E3779B9
MIX_1 = -2048144789  # 0x85EBCA6B
MIX_2 = -1028477387  # 0xC2B2AE35


def hash32(x: tf.Tensor) -> tf.Tensor:
    """murmur3's 32-bit finaliser, with arithmetic shifts (still one-to-one): i32 -> i32."""
    for shift, multiplier in ((16, MIX_1), (13, MIX_2)):
        x = tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, tf.constant(shift))) * multiplier
    return tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, tf.constant(16)))


def keep_mask(shape: tf.Tensor, rate: float, seed: tf.Tensor) -> tf.Tensor:
    """f32 of `shape`: 1/(1-rate) with probability 1-rate, else 0; element i depends on (seed, i)."""
    count = tf.reduce_prod(shape)
    draws = hash32(tf.range(count) * GOLDEN + seed)
    threshold = round(rate * 2**32) - 2**31
    kept = tf.cast(draws >= threshold, tf.float32)
    return tf.reshape(kept, shape) * (1.0 / (1.0 - rate))


@contextmanager
def seeded_dropout(seed: tf.Tensor) -> Iterator[None]:
    """While active, Keras's dropout layers called in training draw their masks from `seed` i32[1].

    Each call takes the next number, so two layers of the same size differ.
    """
    calls = iter(range(1, 2**31))

    def call(layer: Any, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        if not training or layer.rate == 0:
            return inputs
        shape = tf.shape(inputs)
        noise_shape = (
            layer._get_noise_shape(inputs) if hasattr(layer, "_get_noise_shape") else layer.noise_shape
        )
        if noise_shape is not None:
            shape = tf.stack([shape[i] if n is None else n for i, n in enumerate(noise_shape)])
        layer_seed = hash32(seed + next(calls) * GOLDEN % 2**31)
        mask = keep_mask(shape, layer.rate, layer_seed)
        mask.set_shape(
            [n if noise_shape is None or noise_shape[i] is None else 1 for i, n in enumerate(inputs.shape)]
        )
        return inputs * mask

    with patch.object(keras.layers.Dropout, "call", call):
        yield
