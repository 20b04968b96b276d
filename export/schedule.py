"""The order in which a `.tflite` runs its operators, so that few tensors are alive at a time.

The converter lists every filter gradient at the end of `train`, so that all activations and all their
gradients are alive at once. Here each assignment's ancestors come right before it, the assignments that
can be made early first: a layer's gradients are used up before the next layer's begin. (The VGG at batch
32 in tflite-runtime: 628 MB instead of 746, and no slower.) Pure functions over plain data.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Operator:
    """`inputs` and `outputs` are tensor numbers; `reads` and `writes` name a variable."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    reads: str | None = None
    writes: str | None = None
    first: bool = False  # has to stay at the front (CALL_ONCE, which sets the variables up)


def schedule(operators: Sequence[Operator]) -> list[int]:
    """Numbers of the operators in a new order that respects every dependence of the given one."""
    before = dependences(operators)
    levels = _levels(before)
    needed = {number for numbers in before for number in numbers}
    sinks = [i for i in range(len(operators)) if i not in needed or operators[i].writes]
    order: list[int] = []
    placed: set[int] = set()
    for sink in [i for i, op in enumerate(operators) if op.first] + sorted(sinks, key=lambda i: levels[i]):
        _place(sink, before, levels, order, placed)
    return order


def dependences(operators: Sequence[Operator]) -> list[list[int]]:
    """For each operator the numbers of those that must run before it: those that make its inputs, the reads
    of a variable before the write that follows, that write before later reads, CALL_ONCE before all."""
    maker: dict[int, int] = {}
    last_write: dict[str, int] = {}
    reads_since: dict[str, list[int]] = {}
    setup: list[int] = []
    result = []
    for number, op in enumerate(operators):
        before = [maker[tensor] for tensor in op.inputs if tensor in maker] + setup
        for name in {op.reads, op.writes} - {None}:
            assert name is not None
            before += [last_write[name]] if name in last_write else []
        if op.writes is not None:
            before += reads_since.pop(op.writes, [])
            last_write[op.writes] = number
        if op.reads is not None:
            reads_since.setdefault(op.reads, []).append(number)
        setup += [number] if op.first else []
        maker.update(dict.fromkeys(op.outputs, number))
        result.append([other for other in dict.fromkeys(before) if other != number])
    return result


def _levels(before: list[list[int]]) -> list[int]:
    """Longest way from the start to each operator."""
    levels: list[int] = []
    for numbers in before:
        levels.append(1 + max((levels[number] for number in numbers), default=-1))
    return levels


def _place(sink: int, before: list[list[int]], levels: list[int], order: list[int], placed: set[int]) -> None:
    """Appends `sink` after all it depends on, the longest chain first: what comes from a short one would wait
    for it in memory. Depth first (a loop: the chains are long)."""
    stack = [sink]
    while stack:
        number = stack[-1]
        waiting = [other for other in before[number] if other not in placed]
        if waiting:
            stack.extend(sorted(waiting, key=lambda other: levels[other]))
            continue
        stack.pop()
        if number not in placed:
            placed.add(number)
            order.append(number)
