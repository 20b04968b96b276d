"""Putting checkpoints into a Keras model, by the names of their tensors."""

from collections.abc import Sequence
from pathlib import Path

import keras

from fedfer.export.checkpoint import Weights, load_matching
from fedfer.export.contract import Contract
from fedfer.model.errors import CheckpointError


def start_from(model: keras.Model, checkpoints: Sequence[Path], contract: Contract) -> None:
    """Sets every weight of `model`, none of them frozen yet; `contract` is of the whole model.

    One checkpoint of all weights will do, or several that hold them together, such as the one that a body was
    frozen from and, after it, one of a head: later ones go before earlier ones. Raises CheckpointError.
    """
    found: Weights = {}
    for path in checkpoints:
        found |= load_matching(path, contract)
    missing = [spec.name for spec in contract.weights if spec.name not in found]
    if missing:
        raise CheckpointError(
            f"{len(missing)} of {len(contract.weights)} tensors are in no checkpoint given, {missing[0]} for "
            "one; give the checkpoint that holds them first",
            code="wrong_names",
        )
    model.set_weights([found[spec.name] for spec in contract.weights])
