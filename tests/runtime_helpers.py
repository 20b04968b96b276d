"""What tests do with an exported model inside a process of its own. Each function is for `call_isolated`."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedfer.export.checkpoint import Weights
from fedfer.export.runtime import Model, without_information
from fedfer.model.data import to_float
from fedfer.model.sources import load_images

RATE = 0.05


def faces(count: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Drawn faces f32[count,48,48,1] and their labels."""
    drawn = load_images("drawn", take=count)
    return to_float(drawn.images), drawn.labels


@dataclass(frozen=True)
class Trained:
    """Losses of successive steps on one batch, and the weights after them."""

    losses: list[float]
    weights: Weights


def train(
    path: Path,
    runtime: str,
    *,
    steps: int,
    batch_size: int,
    seed: int,
    start: Weights | None = None,
    rate: float = RATE,
) -> Trained:
    """`steps` steps on the first faces from the file's weights, or from `start`."""
    model = Model(path, runtime=runtime)
    if start is not None:
        model.restore(start)
    images, labels = faces(batch_size)
    losses = [model.train(images, labels, learning_rate=rate, seed=seed).loss for _ in range(steps)]
    return Trained(losses, model.save())


def infer(path: Path, runtime: str, *batch_sizes: int) -> list[NDArray[np.float32]]:
    """Probabilities of the first faces, by batches of these sizes, one after the other."""
    model = Model(path, runtime=runtime)
    return [model.infer(faces(size)[0]) for size in batch_sizes]


def losses_by_batch(path: Path, runtime: str, *batch_sizes: int) -> list[float]:
    """Loss of one step of learning rate 0 on the first faces, for each of these batch sizes."""
    model = Model(path, runtime=runtime)
    return [model.train(*faces(size), learning_rate=0.0, seed=0).loss for size in batch_sizes]


def restore_and_save(path: Path, runtime: str, weights: Weights) -> Weights:
    model = Model(path, runtime=runtime)
    model.restore(weights)
    return model.save()


def load(content: bytes, runtime: str) -> str:
    """Loads a model; returns the runtime that took it."""
    return Model(content, runtime=runtime).runtime


def load_without_runtimes(path: Path) -> None:
    """Loads as on a machine where no runtime is installed."""
    from fedfer.export import runtime

    runtime.RUNTIMES.clear()
    Model(path)


def run_badly(path: Path, runtime: str, signature: str, inputs: dict[str, NDArray[np.float32]]) -> None:
    Model(path, runtime=runtime).run(signature, **inputs)


def load_and_tell(path: Path, runtime: str) -> None:
    """Loads a model, and writes lines to stderr as native code does, while one loads and after."""
    Model(path, runtime=runtime).infer(faces(1)[0])
    with without_information():
        os.write(2, b"INFO: of no interest\nWARNING: of interest\n")
        print("of Python", file=sys.stderr)
        os.write(2, b"ERROR: without an end")
    os.write(2, b"\nINFO: after it\n")
