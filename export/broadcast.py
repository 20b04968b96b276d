"""Gradients of elementwise ops, biases and reshapes whose shapes are static but for the batch.

TensorFlow asks BroadcastGradientArgs at run time which axes to sum over, an op that phones lack. Here it is
read from the static shapes: two unknown sizes on one axis are the same batch. Nothing has a computed shape
(why that matters: fedfer.export.dropout).
"""

import tensorflow as tf

from fedfer.export.normalization import sum_all_but_last
from fedfer.export.slicing import shaped_as
from fedfer.model.errors import ExportError

OVERRIDES = {
    "AddV2": "FedferAddV2",
    "Sub": "FedferSub",
    "Mul": "FedferMul",
    "RealDiv": "FedferRealDiv",
    "SquaredDifference": "FedferSquaredDifference",
    "Maximum": "FedferMaximum",
    "Minimum": "FedferMinimum",
    "SelectV2": "FedferSelect",
    "Pow": "FedferPow",
    "BroadcastTo": "FedferBroadcastTo",
    "BatchMatMulV2": "FedferBatchMatMul",
    "MatMul": "FedferMatMul",
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


@tf.RegisterGradient("FedferMaximum")  # type: ignore[untyped-decorator]
def _maximum_gradient(op: tf.Operation, dz: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """x takes it where they are equal, as in TensorFlow."""
    x, y = op.inputs
    to_x = dz * tf.cast(x >= y, tf.float32)
    return _both(op, to_x, dz - to_x)


@tf.RegisterGradient("FedferMinimum")  # type: ignore[untyped-decorator]
def _minimum_gradient(op: tf.Operation, dz: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """x takes it where they are equal, as in TensorFlow."""
    x, y = op.inputs
    to_x = dz * tf.cast(x <= y, tf.float32)
    return _both(op, to_x, dz - to_x)


@tf.RegisterGradient("FedferSelect")  # type: ignore[untyped-decorator]
def _select_gradient(op: tf.Operation, dz: tf.Tensor) -> tuple[None, tf.Tensor, tf.Tensor]:
    condition, x, y = op.inputs
    zero = tf.zeros_like(dz)
    to_x, to_y = tf.where(condition, dz, zero), tf.where(condition, zero, dz)
    return None, unbroadcast(to_x, x), unbroadcast(to_y, y)


@tf.RegisterGradient("FedferPow")  # type: ignore[untyped-decorator]
def _power_gradient(op: tf.Operation, dz: tf.Tensor) -> tuple[tf.Tensor, None]:
    """Of x^p with a constant p."""
    x, power = op.inputs
    if tf.get_static_value(power) is None:
        raise ExportError(f"{op.name}: a power with a computed exponent cannot be exported; use a constant")
    return unbroadcast(dz * power * tf.pow(x, power - 1.0), x), None


@tf.RegisterGradient("FedferBroadcastTo")  # type: ignore[untyped-decorator]
def _broadcast_to_gradient(op: tf.Operation, dy: tf.Tensor) -> tuple[tf.Tensor, None]:
    return unbroadcast(dy, op.inputs[0]), None


@tf.RegisterGradient("FedferBatchMatMul")  # type: ignore[untyped-decorator]
def _batch_matmul_gradient(op: tf.Operation, dz: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """z = x y with either transposed: products of dz with the other one."""
    x, y = op.inputs
    across_x, across_y = op.get_attr("adj_x"), op.get_attr("adj_y")
    if across_x:
        to_x = tf.matmul(y, dz, transpose_a=across_y, transpose_b=True)
    else:
        to_x = tf.matmul(dz, y, transpose_b=not across_y)
    if across_y:
        to_y = tf.matmul(dz, x, transpose_a=True, transpose_b=across_x)
    else:
        to_y = tf.matmul(x, dz, transpose_a=not across_x)
    return _both(op, to_x, to_y)


@tf.RegisterGradient("FedferBiasAdd")  # type: ignore[untyped-decorator]
def _bias_gradient(op: tf.Operation, dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return dy, sum_all_but_last(dy)


@tf.RegisterGradient("FedferReshape")  # type: ignore[untyped-decorator]
def _reshape_gradient(op: tf.Operation, dy: tf.Tensor) -> tuple[tf.Tensor, None]:
    return shaped_as(dy, op.inputs[0]), None


@tf.RegisterGradient("FedferMatMul")  # type: ignore[untyped-decorator]
def _product_gradient(op: tf.Operation, dz: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Of two matrices, as a batch of one where the right side is transposed: the converter makes such a
    product FULLY_CONNECTED, which LiteRT leaves to slower code where the weights are no constants."""
    x, y = op.inputs
    across_x, across_y = op.get_attr("transpose_a"), op.get_attr("transpose_b")
    to_x = _product(y, dz, across_y, True) if across_x else _product(dz, y, False, not across_y)
    to_y = _product(dz, x, True, across_x) if across_y else _product(x, dz, not across_x, False)
    return to_x, to_y


def _product(x: tf.Tensor, y: tf.Tensor, across_x: bool, across_y: bool) -> tf.Tensor:
    if not across_y:
        return tf.matmul(x, y, transpose_a=across_x)
    batch_of_one = tf.matmul(x[None], y[None], transpose_a=across_x, transpose_b=True)
    return tf.reshape(batch_of_one, [-1, batch_of_one.shape[2]])
