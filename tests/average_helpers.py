"""Contracts and checkpoints of a few numbers, for tests that need no `.tflite`."""

from pathlib import Path

import numpy as np

from fedfer.export.checkpoint import Weights, checkpoint_bytes, digest_of
from fedfer.export.contract import Contract, TrainingSettings, WeightSpec

SMALL = Contract(
    model_name="small",
    image_shape=(48, 48, 1),
    labels=("a", "b"),
    weights=(
        WeightSpec("dense/kernel", (2, 3), "float32", "trainable"),
        WeightSpec("norm/variance", (3,), "float32", "statistic", nonnegative=True),
        WeightSpec("scale", (), "float32", "trainable"),
    ),
    training=TrainingSettings(),
    initial_weights="0" * 64,
)


def constant_weights(value: float, contract: Contract = SMALL) -> Weights:
    """Every element the same number."""
    return {w.name: np.full(w.shape, value, np.float32) for w in contract.weights}


def random_weights(seed: int, contract: Contract = SMALL) -> Weights:
    """Standard normal numbers; where the contract wants none below 0, their magnitudes."""
    rng = np.random.default_rng(seed)
    drawn = {w.name: np.asarray(rng.standard_normal(w.shape), np.float32) for w in contract.weights}
    return {w.name: abs(drawn[w.name]) if w.nonnegative else drawn[w.name] for w in contract.weights}


def write_checkpoint(directory: Path, weights: Weights, contract: Contract = SMALL) -> Path:
    """The canonical checkpoint as a file named by its sha256."""
    data = checkpoint_bytes(weights, contract)
    path = directory / digest_of(data)
    path.write_bytes(data)
    return path
