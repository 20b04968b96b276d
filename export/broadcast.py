"""Gradients of elementwise ops, biases and reshapes whose shapes are static but for the batch.

TensorFlow asks BroadcastGradientArgs at run time which axes to sum over, an op that phones lack. Here it is
read from the static shapes: two unknown sizes on one axis are the same batch. Nothing has a computed shape
(why that matters: fedfer.export.dropout).
"""

import tensorflow as tf

from fedfer.export.normalization import sum_all_but_last
from fedfer.model.errors import ExportError

OVERRIDES = {
    "AddV2": "FedferAddV2",
    "Sub": "FedferSub",
    "Mul": "FedferMul",
    "RealDiv": "FedferRealDiv",
    "SquaredDifference": "FedferSquaredDifference",
    "BiasAdd": "FedferBiasAdd",
    "Reshape": "FedferReshape",
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


@tf.RegisterGradient("FedferAddV2")  # type: ignore[untyped-decorator]
def _add_gradient(op: tf.Operation, dz: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return _both(op, dz, dz)


@tf.RegisterGradient("FedferSub")  # type: ignore[untyped-decorator]
def _sub_gradient(op: tf.Operation, dz: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return _both(op, dz, -dz)


@tf.RegisterGradient("FedferMul")  # type: ignore[untyped-decorator]
def _mul_gradient(op: tf.Operation, dz: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    x, y = op.inputs
    return _both(op, dz * y, dz * x)


@tf.RegisterGradient("FedferRealDiv")  # type: ignore[untyped-decorator]
def _div_gradient(op: tf.Operation, dz: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    _, y = op.inputs
    return _both(op, dz / y, -dz * op.outputs[0] / y)


@tf.RegisterGradient("FedferSquaredDifference")  # type: ignore[untyped-decorator]
def _squared_difference_gradient(op: tf.Operation, dz: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    x, y = op.inputs
    to_x = 2.0 * dz * (x - y)
    return _both(op, to_x, -to_x)


@tf.RegisterGradient("FedferBiasAdd")  # type: ignore[untyped-decorator]
def _bias_gradient(op: tf.Operation, dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return dy, sum_all_but_last(dy)


@tf.RegisterGradient("FedferReshape")  # type: ignore[untyped-decorator]
def _reshape_gradient(op: tf.Operation, dy: tf.Tensor) -> tuple[tf.Tensor, None]:
    shape = op.inputs[0].shape
    unknown = [i for i, size in enumerate(shape) if size is None]
    if len(unknown) > 1:
        raise ExportError(f"{op.name}: more than one size is not fixed; only the batch may vary")
    return tf.reshape(dy, [-1 if size is None else size for size in shape]), None
