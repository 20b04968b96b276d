"""A server optimizer's memory as safetensors: float32, one tensor a moment and weight, named `m/<weight>`.

Its one metadata entry names the strategy and the contract that it belongs to, so a run that is continued
with another strategy or model is refused and not silently mixed up. (One entry: safetensors writes several
in an order that changes from call to call, and equal moments must have equal bytes.)
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors
from safetensors.numpy import save

from fedfer.export.checkpoint import Weights
from fedfer.export.contract import Contract
from fedfer.model.errors import CheckpointError

METADATA_KEY = "fedfer.moments"


def moments_bytes(moments: Weights, strategy: str, contract: Contract) -> bytes:
    """The same bytes for the same moments."""
    data: bytes = save(moments, metadata={METADATA_KEY: f"{strategy} {contract.digest}"})
    return data


def load_moments(path: Path | None, strategy: str, names: Sequence[str], contract: Contract) -> Weights:
    """All moments of a file that `moments_bytes` made; empty without one.

    Raises CheckpointError if it is missing, damaged, or another strategy's or model's.
    """
    if path is None:
        return {}
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            moments = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"cannot read the server optimizer's state {path.name}: {error}") from None
    if metadata.get(METADATA_KEY) != f"{strategy} {contract.digest}":
        raise CheckpointError(
            f"{path.name} is not the state of {strategy} for this model; continue the run with the strategy "
            "that it was begun with, or begin another",
            code="wrong_model",
        )
    _check(moments, names, contract, path.name)
    return moments


def _check(moments: Weights, names: Sequence[str], contract: Contract, file: str) -> None:
    trainable = [weight for weight in contract.weights if weight.role == "trainable"]
    expected = {f"{name}/{weight.name}": weight.shape for name in names for weight in trainable}
    if {name: tensor.shape for name, tensor in moments.items()} != expected:
        raise CheckpointError(f"{file} has other moments than the model", code="wrong_names")
    for name, tensor in moments.items():
        if tensor.dtype != np.float32 or not np.isfinite(tensor).all():
            raise CheckpointError(f"{file}: {name} is not finite float32", code="not_finite")
        if name.startswith("v/") and (tensor < 0).any():
            raise CheckpointError(f"{file}: {name} holds squares below 0", code="out_of_range")
