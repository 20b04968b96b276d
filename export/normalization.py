"""BatchNorm (Ioffe & Szegedy 2015, arXiv 1502.03167) in training, with its backward pass in closed form.

What Keras computes, in fewer operators over whole activations than automatic differentiation leaves, and more
exactly on the phone: TFLite's SUM and MEAN add one number after the other, so that a channel's mean over
B*H*W numbers is off by 1e-5; taken axis after axis it is off by 1e-7.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def sum_all_but_last(x: tf.Tensor) -> tf.Tensor:
    """Sums [..., C] to [C], the innermost axis first."""
    while x.shape.rank > 1:
        x = tf.reduce_sum(x, axis=x.shape.rank - 2)
    return x


def mean_all_but_last(x: tf.Tensor) -> tf.Tensor:
    """Means of [..., C] as [C], the innermost axis first."""
    while x.shape.rank > 1:
        x = tf.reduce_mean(x, axis=x.shape.rank - 2)
    return x


def train_batch_norm(layer: Any, inputs: tf.Tensor) -> tf.Tensor:
    """A keras BatchNormalization over the last axis, training: normalises, and moves its statistics."""
    mean, centred = _centre(inputs)
    variance = mean_all_but_last(centred * centred)
    for moving, batch in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
        moving.assign(moving * layer.momentum + batch * (1.0 - layer.momentum))
    gamma = layer.gamma.value if layer.scale else tf.ones_like(mean)
    beta = layer.beta.value if layer.center else tf.zeros_like(mean)
    normalise = _normalisation(centred, tf.math.rsqrt(variance + layer.epsilon))
    return normalise(inputs, gamma, beta)


def _centre(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and x - mean, the latter as an ADD: SUB of a vector is slow in tflite-runtime 2.14, and the
    converter makes one of x + (-mean)."""
    mean = mean_all_but_last(x)
    return mean, x + mean * -1.0


def _mean_and_sum(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, int]:
    """Of all but the last axis, both [C]: the mean over the batch of each example's sum, and the whole sum;
    beside them of how many places an example's sum is. (As a quotient the mean would need the size of the
    batch, a SHAPE, at which LiteRT splits the step in two graphs.)"""
    count = 1
    while x.shape.rank > 2:
        count *= int(x.shape[-2])
        x = tf.reduce_sum(x, axis=x.shape.rank - 2)
    return tf.reduce_mean(x, axis=0), tf.reduce_sum(x, axis=0), count


def _normalisation(
    centred: tf.Tensor, inverse_deviation: tf.Tensor
) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]:
    """y = gamma * (x - mean) / deviation + beta, given all but gamma and beta; and its gradient.

    With x^ = (x - mean) / deviation, means over all but the channel (equations of section 3):
    dx = gamma / deviation * (dy - mean(dy) - x^ * mean(dy * x^)), dgamma = sum(dy * x^), dbeta = sum(dy).
    """

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def normalise(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
        scale = gamma * inverse_deviation

        def gradient(dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            with_centred = dy * centred
            product, total_product, count = _mean_and_sum(with_centred)
            mean, total, _ = _mean_and_sum(dy)
            slope = product * (inverse_deviation * (inverse_deviation * (-1.0 / count)))
            to_x = (dy + (centred * slope + mean * (-1.0 / count))) * scale
            return to_x, total_product * inverse_deviation, total

        return centred * scale + beta, gradient

    function: Callable[..., tf.Tensor] = normalise
    return function
