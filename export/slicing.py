"""Gradients of slices, concatenations, padding and of operators that only reshape or repeat.

TensorFlow's compute where things were at run time; here it is read from the shapes. Only the batch, the
first axis, may be unknown, and it must be taken whole.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from fedfer.model.errors import ExportError

OVERRIDES = {
    "StridedSlice": "FedferStridedSlice",
    "Slice": "FedferSlice",
    "ConcatV2": "FedferConcat",
    "Pad": "FedferPad",
    "PadV2": "FedferPad",
    "Tile": "FedferTile",
    "ExpandDims": "FedferExpandDims",
    "Squeeze": "FedferSqueeze",
}


@dataclass(frozen=True)
class Taken:
    """What of an axis was taken: from `start` on every `stride`-th, `count` of them (None: all of the batch).
    A negative stride goes backwards."""

    start: int
    stride: int
    count: int | None


@tf.RegisterGradient("FedferStridedSlice")  # type: ignore[untyped-decorator]
def _strided_slice_gradient(op: tf.Operation, dy: tf.Tensor) -> tuple[tf.Tensor | None, ...]:
    return laid_in(dy, op.inputs[0], list(_taken(op))), None, None, None


@tf.RegisterGradient("FedferSlice")  # type: ignore[untyped-decorator]
def _slice_gradient(op: tf.Operation, dy: tf.Tensor) -> tuple[tf.Tensor | None, ...]:
    begin, size = constant(op, 1), constant(op, 2)
    shape = op.inputs[0].shape
    taken = []
    for whole, start, count in zip(shape, begin, size, strict=True):
        if whole is None:
            taken.append(_whole_batch(op, start == 0 and count == -1))
        else:
            taken.append(Taken(int(start), 1, int(whole - start if count == -1 else count)))
    return laid_in(dy, op.inputs[0], taken), None, None


@tf.RegisterGradient("FedferConcat")  # type: ignore[untyped-decorator]
def _concat_gradient(op: tf.Operation, dy: tf.Tensor) -> list[tf.Tensor | None]:
    *parts, _ = op.inputs
    axis = int(constant(op, len(parts))[0]) % dy.shape.rank
    sizes = [part.shape[axis] for part in parts]
    if None in sizes:
        raise ExportError(f"{op.name}: examples of a batch are joined; join along another axis")
    return [*tf.split(dy, sizes, axis), None]


@tf.RegisterGradient("FedferPad")  # type: ignore[untyped-decorator]
def _pad_gradient(op: tf.Operation, dy: tf.Tensor) -> list[tf.Tensor | None]:
    pads = constant(op, 1)
    inside = [slice(before, None if size is None else before + size) for before, size in _inside(op, pads)]
    return [dy[tuple(inside)], *[None] * (len(op.inputs) - 1)]


@tf.RegisterGradient("FedferTile")  # type: ignore[untyped-decorator]
def _tile_gradient(op: tf.Operation, dy: tf.Tensor) -> tuple[tf.Tensor, None]:
    for axis, times in enumerate(constant(op, 1)):
        if times > 1:
            if op.inputs[0].shape[axis] is None:
                raise ExportError(f"{op.name}: the examples of a batch are repeated; repeat another axis")
            dy = tf.add_n(tf.split(dy, int(times), axis))
    return dy, None


@tf.RegisterGradient("FedferExpandDims")  # type: ignore[untyped-decorator]
def _expand_dims_gradient(op: tf.Operation, dy: tf.Tensor) -> tuple[tf.Tensor, None]:
    return shaped_as(dy, op.inputs[0]), None


@tf.RegisterGradient("FedferSqueeze")  # type: ignore[untyped-decorator]
def _squeeze_gradient(op: tf.Operation, dy: tf.Tensor) -> tf.Tensor:
    return shaped_as(dy, op.inputs[0])


def shaped_as(x: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """x in the shape of `like`, of which one size may be unknown. Raises ExportError."""
    sizes = [-1 if size is None else size for size in like.shape]
    if sizes.count(-1) > 1:
        raise ExportError(f"{like.name}: more than one size is not fixed; only the batch may vary")
    return tf.reshape(x, sizes)


def laid_in(dy: tf.Tensor, like: tf.Tensor, taken: Sequence[Taken]) -> tf.Tensor:
    """Zeros of the shape of `like` with dy where the slice was taken from."""
    dy = tf.reshape(dy, [-1 if part.count is None else part.count for part in taken])
    for axis, part in enumerate(taken):
        if part.count is not None and part.stride != 1:
            dy = _spaced(tf.reverse(dy, [axis]) if part.stride < 0 else dy, axis, abs(part.stride))
    pads = []
    for size, part in zip(like.shape, taken, strict=True):
        if part.count is None:
            pads.append([0, 0])
            continue
        reach = abs(part.stride) * (part.count - 1)
        first = part.start if part.stride > 0 else part.start - reach
        pads.append([first, size - first - reach - 1])
    return tf.pad(dy, pads) if np.any(pads) else dy


def constant(op: tf.Operation, number: int) -> Any:
    """The value of an input that must be known, as an array of one axis or more. Raises ExportError."""
    value = tf.get_static_value(op.inputs[number])
    if value is None:
        raise ExportError(f"{op.name} ({op.type}): places that are computed cannot be exported")
    return np.atleast_1d(value)


def _spaced(x: tf.Tensor, axis: int, stride: int) -> tf.Tensor:
    """stride - 1 zeros between neighbours along the axis."""
    sizes = [-1 if size is None else size for size in x.shape]
    apart = tf.reshape(x, [*sizes[: axis + 1], 1, *sizes[axis + 1 :]])
    pads = [[0, 0]] * (axis + 1) + [[0, stride - 1]] + [[0, 0]] * (len(sizes) - axis - 1)
    spaced = tf.reshape(tf.pad(apart, pads), [*sizes[:axis], sizes[axis] * stride, *sizes[axis + 1 :]])
    inside = [slice(None)] * axis + [slice(0, (sizes[axis] - 1) * stride + 1)]
    return spaced[tuple(inside)]


def _inside(op: tf.Operation, pads: Any) -> Iterator[tuple[int, int | None]]:
    """Where the padded tensor begins, and its size; None for the whole batch."""
    for size, (before, after) in zip(op.inputs[0].shape, pads.tolist(), strict=True):
        if size is None:
            _whole_batch(op, before == after == 0)
        yield before, size


def _whole_batch(op: tf.Operation, whole: bool) -> Taken:
    if not whole:
        raise ExportError(f"{op.name} takes or adds examples of a batch; take all of them")
    return Taken(0, 1, None)


def _taken(op: tf.Operation) -> Iterator[Taken]:
    """What a StridedSlice takes of each axis of its input: Python's slices, as bits."""
    shape = op.inputs[0].shape
    begin, end, strides = (constant(op, number) for number in (1, 2, 3))
    axis = 0
    for number in range(len(begin)):
        if _bit(op, "new_axis_mask", number):
            continue
        if _bit(op, "ellipsis_mask", number):
            later = sum(not _bit(op, "new_axis_mask", n) for n in range(number + 1, len(begin)))
            for size in shape[axis : shape.rank - later]:
                yield Taken(0, 1, size)
            axis = shape.rank - later
            continue
        yield _one_axis(op, number, shape[axis], (int(begin[number]), int(end[number]), int(strides[number])))
        axis += 1
    for size in shape[axis:]:
        yield Taken(0, 1, size)


def _one_axis(op: tf.Operation, number: int, size: int | None, spec: tuple[int, int, int]) -> Taken:
    begin, end, stride = spec
    first = None if _bit(op, "begin_mask", number) else begin
    last = None if _bit(op, "end_mask", number) else end
    shrinks = _bit(op, "shrink_axis_mask", number)
    if size is None:
        return _whole_batch(op, first in (None, 0) and last is None and stride == 1 and not shrinks)
    if shrinks:
        return Taken(begin % size, 1, 1)
    places = range(size)[slice(first, last, stride)]
    return Taken(places.start, stride, len(places))


def _bit(op: tf.Operation, mask: str, number: int) -> bool:
    return bool(op.get_attr(mask) >> number & 1)
