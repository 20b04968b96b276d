"""All updates of a round side by side, a block of elements at a time, for rules that compare updates.

The block shrinks as the number of updates grows, so that a round's memory does not.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedfer.aggregator.update_reader import WeightedFile, flat_size, opened
from fedfer.export.checkpoint import CheckedFile, Weights
from fedfer.export.contract import Contract, Role, WeightSpec

MAX_ROWS_BYTES = 8 << 20  # of float32 rows; rules make two or three copies, also in float64
MAX_BLOCK_ELEMENTS = 1 << 16


@dataclass(frozen=True)
class Block:
    """Elements `first` to `first + b` of a flat tensor: `parent` f32[b], `rows` f32[n, b], one row an update
    in canonical order. Both are overwritten by the next block."""

    weight: WeightSpec
    first: int
    parent: NDArray[np.float32]
    rows: NDArray[np.float32]

    def deltas(self) -> NDArray[np.float64]:
        """f64[n, b]: what each update changes."""
        return self.rows - self.parent.astype(np.float64)


def blocks(
    parent: Path, ordered: Sequence[WeightedFile], contract: Contract, roles: Sequence[Role]
) -> Iterator[Block]:
    """Every tensor with one of these roles, in the contract's order, block by block.

    Raises CheckpointError for a file that is missing or damaged.
    """
    elements = max(1, min(MAX_BLOCK_ELEMENTS, MAX_ROWS_BYTES // (4 * len(ordered))))
    memory, start = np.empty(len(ordered) * elements, np.float32), np.empty(elements, np.float32)
    with CheckedFile(parent, contract) as origin, opened(parent, ordered, contract) as readers:
        origin.open()
        for weight in contract.weights:
            if weight.role not in roles:
                continue
            for first in range(0, flat_size(weight), elements):
                size = min(elements, flat_size(weight) - first)
                rows = memory[: len(ordered) * size].reshape(len(ordered), size)
                origin.read_into(weight.name, first, start[:size])
                for row, reader in zip(rows, readers, strict=True):
                    reader.read_into(weight, first, row)
                yield Block(weight, first, start[:size], rows)


def reduced(
    parent: Path,
    ordered: Sequence[WeightedFile],
    contract: Contract,
    roles: Sequence[Role],
    rule: Callable[[Block], NDArray[np.float64]],
) -> Weights:
    """The tensors with these roles, each block f64[b] = rule(block), rounded to float32."""
    weights = {w.name: np.empty(w.shape, np.float32) for w in contract.weights if w.role in roles}
    for block in blocks(parent, ordered, contract, roles):
        flat = weights[block.weight.name].reshape(-1)
        flat[block.first : block.first + block.parent.size] = rule(block)
    return weights


def trimmed(
    parent: Path,
    ordered: Sequence[WeightedFile],
    contract: Contract,
    roles: Sequence[Role],
    num_trimmed: int,
) -> Weights:
    """The tensors with these roles: for every element `mean_of_middle` of the updates' values."""
    return reduced(parent, ordered, contract, roles, lambda block: mean_of_middle(block.rows, num_trimmed))


def mean_of_middle(rows: NDArray[np.float32], num_trimmed: int) -> NDArray[np.float64]:
    """f64[b]: for every element the mean of the rows' values, rows f32[n, b], without the `num_trimmed`
    smallest and largest; summed from the smallest up, so the order of the rows does not matter."""
    ordered = np.sort(rows.T.copy(), axis=1)
    kept = ordered[:, num_trimmed : len(rows) - num_trimmed]
    total = np.zeros(len(ordered))
    for column in kept.T:
        total += column
    return total / kept.shape[1]
