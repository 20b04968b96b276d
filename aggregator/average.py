"""Federated averaging: McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from
Decentralized Data", Algorithm 1: w = sum_k n_k w_k / sum_k n_k over the updates of a round.

Updates are checkpoint files, read a block at a time into float64 sums: memory is that of the result, however
many updates there are. BatchNorm statistics are averaged like weights.

What is computed, exactly: with the updates in canonical order (`update_reader`), each run of equal n_k is
summed, the sum multiplied by n_k, the product added to the total; the total divided by sum_k n_k; all in
float64, element by element. So the result is a pure function of the set of updates, bit for bit: neither
their arrival nor blocks nor threads have a say.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fedfer.aggregator.update_reader import UpdateReader, WeightedFile, in_order, opened
from fedfer.export.checkpoint import Weights
from fedfer.export.contract import Contract, WeightSpec

BLOCK_ELEMENTS = 1 << 15  # block and sums stay in the core's cache: measured best of 2**12..2**18
LINE_ELEMENTS = 8  # a cache line between buffers: whole pages apart, adding them takes twice as long
MAX_THREADS = 4
Float = TypeVar("Float", np.float32, np.float64)


def weighted_mean(updates: Iterable[WeightedFile], contract: Contract, parent: Path | None = None) -> Weights:
    """Mean of the updates' tensors weighted by num_examples, rounded to float32 once, at the end.

    `parent` is needed for stale updates (see `update_reader`). Raises UsageError for no update or a
    num_examples below 1, CheckpointError for a file that is missing or damaged.
    """
    means = mean_tensors(in_order(updates), contract, parent, np.float32)
    return {weight.name: mean for weight, mean in means}


def mean_tensors(
    ordered: Sequence[WeightedFile], contract: Contract, parent: Path | None, dtype: type[Float]
) -> Iterator[tuple[WeightSpec, NDArray[Float]]]:
    """The weighted mean, tensor by tensor in the contract's order, rounded to `dtype`."""
    num_threads = max(1, min(MAX_THREADS, os.cpu_count() or 1))
    with opened(parent, ordered, contract) as readers, ThreadPoolExecutor(num_threads) as pool:
        for weight in contract.weights:
            mean = np.empty(weight.shape, dtype)
            flat = mean.reshape(-1)
            firsts = range(0, flat.size, BLOCK_ELEMENTS)
            # Each block is one thread's: who computes it changes nothing.
            shares = [firsts[thread::num_threads] for thread in range(min(num_threads, len(firsts)))]
            for done in [pool.submit(_average, flat, readers, weight, share) for share in shares]:
                done.result()
            yield weight, mean


def _average(
    mean: NDArray[Float], readers: Sequence[UpdateReader], weight: WeightSpec, firsts: Sequence[int]
) -> None:
    """Fills the flat `mean` from each of `firsts` on for a block. Casts into a buffer, then adds in place:
    numpy's mixed-dtype arithmetic casts in pieces of 8192 and takes longer."""
    runs = [(n, list(same)) for n, same in groupby(readers, lambda reader: reader.update.num_examples)]
    examples = float(sum(reader.update.num_examples for reader in readers))
    size = min(BLOCK_ELEMENTS, mean.size)
    memory = np.empty(size, np.float32)
    buffers = np.empty((3, size + LINE_ELEMENTS))
    for first in firsts:
        part = mean[first : first + size]
        values = memory[: part.size]
        total, run_sum, addend = buffers[:, : part.size]
        total[:] = 0.0
        for num_examples, (head, *tail) in runs:
            head.read_into(weight, first, values)
            np.copyto(run_sum, values)
            for reader in tail:
                reader.read_into(weight, first, values)
                np.copyto(addend, values)
                np.add(run_sum, addend, out=run_sum)
            np.multiply(run_sum, float(num_examples), out=run_sum)
            np.add(total, run_sum, out=total)
        np.divide(total, examples, out=total)
        part[:] = total
