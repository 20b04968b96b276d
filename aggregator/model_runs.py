"""What the server runs of the served model: its initial weights and its measures on the holdout set.

Each run is a process of its own (the interpreter's memory and crashes stay out of the server).
"""

from pathlib import Path

from fedfer.aggregator.config import HoldoutSource, RunConfig
from fedfer.export.checkpoint import checkpoint_bytes, load_checkpoint
from fedfer.export.contract import Contract
from fedfer.export.isolation import call_isolated
from fedfer.model.data import LabelledImages, check_fit
from fedfer.model.measures import Measures


def initial_checkpoint(config: RunConfig, contract: Contract, runtime: str) -> bytes:
    """The checkpoint that round 1 starts from: the one given, or what the model's `save` returns.

    Raises CheckpointError, InterpreterError.
    """
    if config.initial_weights is not None:
        return checkpoint_bytes(load_checkpoint(config.initial_weights, contract), contract)
    return call_isolated(saved_checkpoint, config.model, runtime)


def saved_checkpoint(model: Path, runtime: str) -> bytes:
    """The weights inside a `.tflite` as a checkpoint. Loads an interpreter."""
    from fedfer.export.runtime import Model

    loaded = Model(model, runtime=runtime)
    return checkpoint_bytes(loaded.save(), loaded.contract)


def load_holdout(wanted: HoldoutSource | None, contract: Contract) -> LabelledImages | None:
    """The server's own images, None without. Raises DataError, UsageError."""
    if wanted is None:
        return None
    from fedfer.model.sources import load_images

    images = load_images(
        wanted.source, skip=wanted.skip, take=wanted.take, seed=wanted.seed, usage=wanted.usage
    )
    check_fit(images, contract.image_shape, len(contract.labels))
    return images


def measure_version(
    model: Path, weights: Path, holdout: LabelledImages | None, runtime: str
) -> Measures | None:
    """Measures of the model with these weights on the holdout set. Raises InterpreterError."""
    if holdout is None:
        return None
    from fedfer.export.evaluation import evaluate_apart

    return evaluate_apart(model, weights, holdout, runtime=runtime)
