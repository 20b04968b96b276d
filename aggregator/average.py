"""Federated averaging: McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from
Decentralized Data", Algorithm 1: w = sum_k n_k w_k / sum_k n_k over the updates of a round.

Updates are checkpoint files, read a block at a time into float64 sums: memory is one checkpoint's
elements in float64, however many updates there are. The order of summation is the updates' names', not
that of their arrival, so the result is a pure function of the set of updates, bit for bit. BatchNorm
statistics are averaged like weights. Rounded to float32 once, at the end.
"""

import math
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedfer.export.checkpoint import CheckedFile, Weights
from fedfer.export.contract import Contract, WeightSpec
from fedfer.model.errors import UsageError

BLOCK_ELEMENTS = 1 << 15  # block, product and sum stay in the core's cache: measured best of 2**12..2**18
FILES_AT_ONCE = 64  # open files, far below a process's usual limit of 1024


@dataclass(frozen=True, order=True)
class WeightedFile:
    """One update; the field order is the canonical order of summation."""

    sha256: str
    num_examples: int
    device_id: str
    path: Path


def weighted_mean(updates: Iterable[WeightedFile], contract: Contract) -> Weights:
    """Mean of the updates' tensors weighted by num_examples, float32.

    Raises UsageError for no update or a num_examples below 1, CheckpointError for a file that is
    missing or damaged.
    """
    ordered = sorted(updates)
    if not ordered or min(update.num_examples for update in ordered) < 1:
        raise UsageError("expected at least one update, each with num_examples of 1 or more")
    sums = {weight.name: np.zeros(math.prod(weight.shape)) for weight in contract.weights}
    for first in range(0, len(ordered), FILES_AT_ONCE):
        _add_group(sums, ordered[first : first + FILES_AT_ONCE], contract)
    total = float(sum(update.num_examples for update in ordered))
    return {
        weight.name: (sums.pop(weight.name) / total).astype(np.float32).reshape(weight.shape)
        for weight in contract.weights
    }


def _add_group(
    sums: dict[str, NDArray[np.float64]], group: Sequence[WeightedFile], contract: Contract
) -> None:
    with ExitStack() as stack:
        files = [
            (stack.enter_context(CheckedFile(update.path, contract)), float(update.num_examples))
            for update in group
        ]
        for weight in contract.weights:
            _add_tensor(sums[weight.name], files, weight)


def _add_tensor(
    total: NDArray[np.float64], files: Sequence[tuple[CheckedFile, float]], weight: WeightSpec
) -> None:
    """Adds num_examples * tensor of every file to the flat `total`, block by block."""
    block = np.empty(BLOCK_ELEMENTS, np.float32)
    product = np.empty(BLOCK_ELEMENTS, np.float64)
    for first in range(0, total.size, BLOCK_ELEMENTS):
        part = total[first : first + BLOCK_ELEMENTS]
        values, scaled = block[: part.size], product[: part.size]
        for file, num_examples in files:
            file.read_into(weight.name, first, values)
            np.multiply(values, num_examples, out=scaled, dtype=np.float64)
            part += scaled
