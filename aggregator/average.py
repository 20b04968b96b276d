"""Federated averaging: McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from
Decentralized Data", Algorithm 1: w = sum_k n_k w_k / sum_k n_k over the updates of a round.

Updates are checkpoint files, read a block at a time into float64 sums: memory is that of the result, however
many updates there are. BatchNorm statistics are averaged like weights.

What is computed, exactly: with the updates in canonical order (`update_reader`), each run of equal n_k is
summed, the sum multiplied by n_k, the products added up; the total divided by sum_k n_k; all in float64,
element by element. So the result is a pure function of the set of updates, bit for bit: neither
their arrival nor blocks nor threads have a say.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, groupby, pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fedfer.aggregator.update_reader import (
    UpdateReader,
    WeightedFile,
    flat_size,
    in_a_row,
    in_order,
    opened,
)
from fedfer.export.checkpoint import Weights
from fedfer.export.contract import Contract, WeightSpec

BLOCK_ELEMENTS = 1 << 17  # threads meet less often than with smaller ones; larger ones leave the caches
LINE_ELEMENTS = 8  # a cache line between buffers: whole pages apart, adding them takes twice as long
MAX_THREADS = 4
Float = TypeVar("Float", np.float32, np.float64)


def weighted_mean(updates: Iterable[WeightedFile], contract: Contract, parent: Path | None = None) -> Weights:
    """Mean of the updates' tensors weighted by num_examples, rounded to float32 once, at the end.

    `parent` is needed for stale updates (see `update_reader`). Raises UsageError for no update or a
    num_examples below 1, CheckpointError for a file that is missing or damaged.
    """
    with opened(parent, in_order(updates), contract) as readers:
        row = in_a_row(contract, readers)
        weights = row or list(contract.weights)
        ends = list(accumulate(map(flat_size, weights), initial=0))
        flat = np.empty(ends[-1], np.float32)
        means = [flat[start:end] for start, end in pairwise(ends)]
        # Tensors that lie in a row are read as one: half of a model's are tiny, and each would cost a call.
        _fill([(weights[0], flat)] if row else list(zip(weights, means, strict=True)), readers)
    named = {weight.name: mean.reshape(weight.shape) for weight, mean in zip(weights, means, strict=True)}
    return {weight.name: named[weight.name] for weight in contract.weights}


def mean_tensors(
    ordered: Sequence[WeightedFile], contract: Contract, parent: Path | None, dtype: type[Float]
) -> Iterator[tuple[WeightSpec, NDArray[Float]]]:
    """The weighted mean, tensor by tensor in the contract's order, rounded to `dtype`."""
    with opened(parent, ordered, contract) as readers:
        for weight in contract.weights:
            mean = np.empty(flat_size(weight), dtype)
            _fill([(weight, mean)], readers)
            yield weight, mean.reshape(weight.shape)


def _fill(means: Sequence[tuple[WeightSpec, NDArray[Float]]], readers: Sequence[UpdateReader]) -> None:
    """Averages into these flat tensors, a block at a time; one that is longer than its tensor goes on with
    those that lie behind it. Each block is one thread's: whose, changes nothing."""
    blocks = [
        (weight, first, mean[first : first + BLOCK_ELEMENTS])
        for weight, mean in means
        for first in range(0, mean.size, BLOCK_ELEMENTS)
    ]
    num_threads = min(MAX_THREADS, os.cpu_count() or 1, len(blocks))
    if num_threads == 1:
        _average(iter(blocks), readers)
        return
    left = iter(blocks)  # shared: a thread that is held up takes fewer
    with ThreadPoolExecutor(num_threads) as pool:
        for done in [pool.submit(_average, left, readers) for _ in range(num_threads)]:
            done.result()


def _average(
    blocks: Iterator[tuple[WeightSpec, int, NDArray[Float]]], readers: Sequence[UpdateReader]
) -> None:
    """Fills block after block, (tensor, first element, where its mean belongs), until none is left."""
    runs = [(n, list(same)) for n, same in groupby(readers, lambda reader: reader.update.num_examples)]
    examples = float(sum(reader.update.num_examples for reader in readers))
    memory = np.empty(BLOCK_ELEMENTS, np.float32)
    sums = np.empty((2, BLOCK_ELEMENTS + LINE_ELEMENTS))
    for weight, first, mean in blocks:
        values = memory[: mean.size]
        total, run_sum = sums[:, : mean.size]
        for number, (num_examples, (head, *tail)) in enumerate(runs):
            product = run_sum if number else total
            head.read_into(weight, first, values)
            if tail:
                np.copyto(run_sum, values)
                for reader in tail:
                    reader.read_into(weight, first, values)
                    np.add(run_sum, values, out=run_sum)
                np.multiply(run_sum, float(num_examples), out=product)
            else:  # cast on the way: one pass over memory less
                np.multiply(values, float(num_examples), out=product, dtype=np.float64)
            if number:
                np.add(total, product, out=total)
        np.divide(total, examples, out=mean, casting="same_kind")
