"""Federated averaging: McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from
Decentralized Data", Algorithm 1: w = sum_k n_k w_k / sum_k n_k over the updates of a round.

Updates are checkpoint files, read a block at a time into float64 sums: memory is one checkpoint's
elements in float64, however many updates there are. The order of summation is that of the updates' names,
not of their arrival, so the result is a pure function of the set of updates, bit for bit. BatchNorm
statistics are averaged like weights.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedfer.aggregator.update_reader import UpdateReader, WeightedFile, in_order, open_parent
from fedfer.export.checkpoint import CheckedFile, Weights
from fedfer.export.contract import Contract, WeightSpec

BLOCK_ELEMENTS = 1 << 15  # block, product and sum stay in the core's cache: measured best of 2**12..2**18
FILES_AT_ONCE = 64  # open files, far below a process's usual limit of 1024


def weighted_mean(updates: Iterable[WeightedFile], contract: Contract, parent: Path | None = None) -> Weights:
    """Mean of the updates' tensors weighted by num_examples, rounded to float32 once, at the end.

    `parent` is needed for stale updates (see `update_reader`). Raises UsageError for no update or a
    num_examples below 1, CheckpointError for a file that is missing or damaged.
    """
    return {
        weight.name: mean.astype(np.float32)
        for weight, mean in mean_tensors(in_order(updates), contract, parent)
    }


def mean_tensors(
    ordered: Sequence[WeightedFile], contract: Contract, parent: Path | None = None
) -> Iterator[tuple[WeightSpec, NDArray[np.float64]]]:
    """The weighted mean, tensor by tensor in the contract's order, in float64 and in the tensor's shape."""
    sums = {weight.name: np.zeros(math.prod(weight.shape)) for weight in contract.weights}
    with ExitStack() as stack:
        opened = open_parent(parent, ordered, contract, stack)
        for first in range(0, len(ordered), FILES_AT_ONCE):
            _add_group(sums, ordered[first : first + FILES_AT_ONCE], opened, contract)
    total = float(sum(update.num_examples for update in ordered))
    for weight in contract.weights:
        yield weight, (sums.pop(weight.name) / total).reshape(weight.shape)


def _add_group(
    sums: dict[str, NDArray[np.float64]],
    group: Sequence[WeightedFile],
    parent: CheckedFile | None,
    contract: Contract,
) -> None:
    with ExitStack() as stack:
        readers = [stack.enter_context(UpdateReader(update, parent, contract)) for update in group]
        for weight in contract.weights:
            _add_tensor(sums[weight.name], readers, weight)


def _add_tensor(total: NDArray[np.float64], readers: Sequence[UpdateReader], weight: WeightSpec) -> None:
    """Adds num_examples * tensor of every update to the flat `total`, block by block."""
    block = np.empty(BLOCK_ELEMENTS, np.float32)
    product = np.empty(BLOCK_ELEMENTS, np.float64)
    for first in range(0, total.size, BLOCK_ELEMENTS):
        part = total[first : first + BLOCK_ELEMENTS]
        values, scaled = block[: part.size], product[: part.size]
        for reader in readers:
            reader.read_into(weight, first, values)
            np.multiply(values, float(reader.update.num_examples), out=scaled, dtype=np.float64)
            part += scaled
