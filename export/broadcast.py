"""Gradients of elementwise ops whose operands are broadcast, for batches of any size.

TensorFlow asks BroadcastGradientArgs at run time which axes to sum over, an op that phones lack. Here it is
read from the static shapes: two unknown sizes on one axis are the same batch.
"""

import tensorflow as tf

from fedfer.model.errors import ExportError

OVERRIDES = {
    "AddV2": "FedferAddV2",
    "Sub": "FedferSub",
    "Mul": "FedferMul",
    "RealDiv": "FedferRealDiv",
    "SquaredDifference": "FedferSquaredDifference",
}


def unbroadcast(gradient: tf.Tensor, operand: tf.Tensor) -> tf.Tensor:
    """Sums `gradient` over the axes along which `operand` was repeated: the operand's shape."""
    whole, shape = gradient.shape, operand.shape
    if whole.rank is None or shape.rank is None:
        raise ExportError(f"{operand.name}: its rank is not fixed; expected tensors of fixed rank")
    extra = whole.rank - shape.rank
    repeated = [extra + i for i, size in enumerate(shape) if size == 1 and whole[extra + i] != 1]
    axes = [*range(extra), *repeated]
    if not axes:
        return gradient
    summed = tf.reduce_sum(gradient, axis=axes, keepdims=True)
    return tf.squeeze(summed, axis=list(range(extra))) if extra else summed


def _both(op: tf.Operation, to_x: tf.Tensor, to_y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    x, y = op.inputs
    return unbroadcast(to_x, x), unbroadcast(to_y, y)


@tf.RegisterGradient("FedferAddV2")
def _add_gradient(op: tf.Operation, dz: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return _both(op, dz, dz)


@tf.RegisterGradient("FedferSub")
def _sub_gradient(op: tf.Operation, dz: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return _both(op, dz, -dz)


@tf.RegisterGradient("FedferMul")
def _mul_gradient(op: tf.Operation, dz: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    x, y = op.inputs
    return _both(op, dz * y, dz * x)


@tf.RegisterGradient("FedferRealDiv")
def _div_gradient(op: tf.Operation, dz: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    _, y = op.inputs
    return _both(op, dz / y, -dz * op.outputs[0] / y)


@tf.RegisterGradient("FedferSquaredDifference")
def _squared_difference_gradient(op: tf.Operation, dz: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    x, y = op.inputs
    to_x = 2.0 * dz * (x - y)
    return _both(op, to_x, -to_x)
