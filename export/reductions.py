"""Gradients of sums, means, maxima and minima over axes whose sizes are known, the batch's included.

TensorFlow's compute shapes at run time (BROADCAST_TO, SHAPE); here the gradient is multiplied by ones.
"""

import math

import numpy as np
import tensorflow as tf

from fedfer.model.errors import ExportError

OVERRIDES = {
    "Sum": "FedferSum",
    "Mean": "FedferMean",
    "Max": "FedferMaxOrMin",
    "Min": "FedferMaxOrMin",
}
MAX_CONSTANT = 4096  # ones in the file; more are made from the input


@tf.RegisterGradient("FedferSum")  # type: ignore[untyped-decorator]
def _sum_gradient(op: tf.Operation, dy: tf.Tensor) -> tuple[tf.Tensor, None]:
    return _kept(op, dy) * _ones(op), None


@tf.RegisterGradient("FedferMean")  # type: ignore[untyped-decorator]
def _mean_gradient(op: tf.Operation, dy: tf.Tensor) -> tuple[tf.Tensor, None]:
    x, axes = op.inputs[0], _axes(op)
    sizes = [x.shape[axis] for axis in axes]
    count = tf.constant(float(math.prod(size for size in sizes if size is not None)))
    if None in sizes:
        count = count * tf.cast(tf.shape(x)[axes[sizes.index(None)]], tf.float32)
    return _kept(op, dy / count) * _ones(op), None


@tf.RegisterGradient("FedferMaxOrMin")  # type: ignore[untyped-decorator]
def _max_or_min_gradient(op: tf.Operation, dy: tf.Tensor) -> tuple[tf.Tensor, None]:
    """Those that equal the result share its gradient, as in TensorFlow."""
    holders = tf.cast(tf.equal(op.inputs[0], _kept(op, op.outputs[0])), tf.float32)
    count = tf.reduce_sum(holders, axis=_axes(op), keepdims=True)
    return holders * (_kept(op, dy) / count), None


def _axes(op: tf.Operation) -> list[int]:
    """Axes that are reduced, from 0 up. Raises ExportError unless they are constants."""
    axes, rank = tf.get_static_value(op.inputs[1]), op.inputs[0].shape.rank
    if axes is None or rank is None:
        raise ExportError(f"{op.name}: axes of a reduction that are not fixed cannot be exported")
    return sorted(int(axis) % rank for axis in np.reshape(axes, [-1])) if rank else []


def _kept(op: tf.Operation, reduced: tf.Tensor) -> tf.Tensor:
    """With sizes of 1 where axes were reduced."""
    axes, shape = _axes(op), op.inputs[0].shape
    sizes = [1 if axis in axes else -1 if size is None else size for axis, size in enumerate(shape)]
    return (
        reduced
        if list(reduced.shape) == [None if n == -1 else n for n in sizes]
        else tf.reshape(reduced, sizes)
    )


def _ones(op: tf.Operation) -> tf.Tensor:
    """Ones that widen what _kept gives to the input's shape."""
    x, axes = op.inputs[0], _axes(op)
    sizes = [size if axis in axes else 1 for axis, size in enumerate(x.shape)]
    if None in sizes or math.prod(sizes) > MAX_CONSTANT:
        return tf.zeros_like(x) + 1.0
    return tf.ones(sizes)
