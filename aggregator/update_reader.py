"""Updates as the strategies see them: a set of checkpoint files in one canonical order, read in blocks.

A fresh update (trained from the newest version, the *parent*) is read as it was sent. A stale one (trained
from an older version, its *base*; Nguyen et al. 2022, "Federated Learning with Buffered Asynchronous
Aggregation", Algorithm 1) is read as what it would do to the parent, damped by s = 1 / sqrt(1 + staleness):

    weights      parent + s * (update - base)
    statistics   (1 - s) * parent + s * update, so that a variance stays one

computed in float64 and rounded to float32, after which no strategy needs to know about staleness.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedfer.aggregator.strategies.staleness import staleness_factor
from fedfer.export.checkpoint import CheckedFile
from fedfer.export.contract import Contract, WeightSpec
from fedfer.model.errors import UsageError

FLOAT32_BYTES = 4
MAX_OPEN_UPDATES = 128  # a process may have 1024 files open, a stale update has two, connections have theirs


@dataclass(frozen=True)
class WeightedFile:
    """One update. `staleness` counts the versions committed since its `base`; a fresh one needs no base.
    Nothing about the device takes part in the arithmetic or in its order."""

    sha256: str
    num_examples: int
    device_id: str
    path: Path
    base: Path | None = None
    staleness: int = 0

    @property
    def place(self) -> tuple[int, str, int, str]:
        """Its place in the canonical order: what is equal in all of these is the same to every strategy."""
        return self.num_examples, self.sha256, self.staleness, self.base.name if self.base else ""


def in_order(updates: Iterable[WeightedFile]) -> list[WeightedFile]:
    """The updates in canonical order, whatever order they came in.

    Raises UsageError for no update, a num_examples below 1, or staleness below 0 or without a base.
    """
    ordered = sorted(updates, key=lambda update: update.place)
    if not ordered or min(update.num_examples for update in ordered) < 1:
        raise UsageError("expected at least one update, each with num_examples of 1 or more")
    for update in ordered:
        if update.staleness < 0 or (update.staleness and update.base is None):
            raise UsageError(
                f"update {update.sha256} has staleness {update.staleness} and base {update.base}; "
                "expected 0 or more, and a base when above 0"
            )
    return ordered


@contextmanager
def opened(
    parent: Path | None, ordered: Sequence[WeightedFile], contract: Contract
) -> Iterator[list["UpdateReader"]]:
    """Readers of all updates, in the given order. Raises CheckpointError, and UsageError for a stale update
    without a parent."""
    with ExitStack() as stack:
        start = None
        if any(update.staleness for update in ordered):
            if parent is None:
                raise UsageError("stale updates cannot be read without the parent's checkpoint")
            start = stack.enter_context(CheckedFile(parent, contract))
            start.open()
        readers = [stack.enter_context(UpdateReader(update, start, contract)) for update in ordered]
        if len(readers) <= MAX_OPEN_UPDATES:
            for reader in readers:
                reader.open()
        yield readers


class UpdateReader:
    """One update, read from any thread. Use it as a context manager; `parent` stays the caller's."""

    def __init__(self, update: WeightedFile, parent: CheckedFile | None, contract: Contract) -> None:
        """Raises CheckpointError if a file is gone or no longer what was checked."""
        self.update, self._parent = update, parent
        self._file = CheckedFile(update.path, contract)
        self._base: CheckedFile | None = None
        if update.staleness and update.base is not None:
            self._base = CheckedFile(update.base, contract)

    @property
    def layout(self) -> Mapping[str, int] | None:
        """Where in its bytes each tensor starts, if they are taken as they were sent; None if it is stale."""
        return None if self._base is not None else self._file.starts

    def open(self) -> None:
        """Keeps its files open until the end of the `with`. Raises CheckpointError."""
        self._file.open()
        if self._base is not None:
            self._base.open()

    def read_into(self, weight: WeightSpec, first: int, out: NDArray[np.float32]) -> None:
        """Fills `out` with the effective tensor's flat elements from `first` on, of a fresh update also with
        what lies behind them if it is longer. Raises CheckpointError."""
        self._file.read_into(weight.name, first, out)
        if self._base is None or self._parent is None:
            return
        sent, parent, base = out.astype(np.float64), np.empty_like(out), np.empty_like(out)
        self._parent.read_into(weight.name, first, parent)
        factor = staleness_factor(self.update.staleness)
        if weight.role == "statistic":
            out[:] = (1.0 - factor) * parent.astype(np.float64) + factor * sent
        else:
            self._base.read_into(weight.name, first, base)
            out[:] = parent + factor * (sent - base)

    def __enter__(self) -> "UpdateReader":
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.__exit__(*exception)
        if self._base is not None:
            self._base.__exit__(*exception)


def in_a_row(contract: Contract, readers: Sequence[UpdateReader]) -> list[WeightSpec] | None:
    """The model's tensors in the order in which they lie in the files, if they lie alike in all of them, one
    directly behind the other, and are taken as they are; else None."""
    layout = readers[0].layout
    if layout is None or any(reader.layout != layout for reader in readers[1:]):
        return None
    ordered = sorted(contract.weights, key=lambda weight: (layout[weight.name], flat_size(weight)))
    ends = [layout[weight.name] + FLOAT32_BYTES * flat_size(weight) for weight in ordered]
    return ordered if ends[:-1] == [layout[weight.name] for weight in ordered[1:]] else None


def flat_size(weight: WeightSpec) -> int:
    """Elements of a tensor."""
    return math.prod(weight.shape)
