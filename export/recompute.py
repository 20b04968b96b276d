"""Which activations a training step makes again in its backward pass instead of keeping them.

Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost" (arXiv 1604.06174), for cheap operators.

The converter merges equal expressions, so that whatever both passes need would be kept through all layers in
between. Sums, slices and the like of what is kept anyway take little time to make again. Pure functions over
plain data.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from fedfer.export.schedule import Operator


@dataclass(frozen=True)
class Recomputed:
    """`operators` with each copy right behind what it repeats; `originals` numbers what each one was, and
    `tensors` names the new tensor of each old one that has two makers now."""

    operators: list[Operator]
    originals: list[int]
    tensors: dict[int, int]


def recompute(
    operators: Sequence[Operator],
    late: Collection[int],
    cheap: Collection[int],
    large: Collection[int],
    num_tensors: int,
) -> Recomputed:
    """Gives the operators `late` copies of the `cheap` ones whose outputs they share with others.

    `large` are the tensors worth it. New tensors are numbered from `num_tensors` on.
    """
    maker = {tensor: number for number, op in enumerate(operators) for tensor in op.outputs}
    shared = {
        t for number in late for t in operators[number].inputs if t in large and maker.get(t) not in late
    }
    shared = {t for t in shared if t in maker}
    return _with_copies(operators, late, _to_copy(operators, maker, shared, cheap, large), num_tensors)


def read_again(
    operators: Sequence[Operator],
    late: Collection[int],
    cheap: Collection[int],
    reads: Collection[int],
    num_tensors: int,
) -> Recomputed:
    """Gives the operators `late` copies of the `reads` of variables that they share with others, and of what
    `cheap` operators make of those reads alone: a read is a copy of the weights, which would be kept from the
    forward pass on."""
    maker = {tensor: number for number, op in enumerate(operators) for tensor in op.outputs}
    found = set(reads)
    for number, op in enumerate(operators):
        makers = {maker[tensor] for tensor in op.inputs if tensor in maker}
        if number in cheap and makers and makers <= found:
            found.add(number)
    found -= {*late}
    again: set[int] = set()
    wanted = [tensor for number in late for tensor in operators[number].inputs]
    while wanted:
        made_by = maker.get(wanted.pop())
        if made_by in found - again:
            again.add(made_by)
            wanted += operators[made_by].inputs
    return _with_copies(operators, late, again, num_tensors)


def _with_copies(
    operators: Sequence[Operator], late: Collection[int], again: Collection[int], num_tensors: int
) -> Recomputed:
    """Each operator of `again` twice, the second time for those that are `late`."""
    tensors: dict[int, int] = {}
    for number in sorted(again):
        for tensor in operators[number].outputs:
            tensors[tensor] = num_tensors + len(tensors)
    result, originals = [], []
    for number, op in enumerate(operators):
        result.append(_renamed(op, tensors) if number in late else op)
        originals.append(number)
        if number in again:
            result.append(replace(_renamed(op, tensors), outputs=tuple(tensors[t] for t in op.outputs)))
            originals.append(number)
    return Recomputed(result, originals, tensors)


def _to_copy(
    operators: Sequence[Operator],
    maker: Mapping[int, int],
    shared: Collection[int],
    cheap: Collection[int],
    large: Collection[int],
) -> set[int]:
    """The makers of shared tensors that follow from other shared ones by cheap operators, and all between."""
    needed: dict[int, list[int]] = {}  # for each tensor that can be made: operators to run, in order
    for number in range(len(operators)):
        op = operators[number]
        ways = [needed.get(t, [] if t in shared else None) for t in op.inputs if t in large]
        if number not in cheap or not ways or any(way is None for way in ways):
            continue
        for tensor in op.outputs:
            needed[tensor] = [*dict.fromkeys(step for way in ways for step in way or []), number]
    return {step for tensor in shared for step in needed.get(tensor, [])}


def _renamed(op: Operator, tensors: Mapping[int, int]) -> Operator:
    return replace(op, inputs=tuple(tensors.get(t, t) for t in op.inputs))
