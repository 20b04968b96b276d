"""A server optimizer's memory as safetensors: float32, one tensor a moment and weight, named `m/<weight>`.

Its one metadata entry names the strategy and the contract that it belongs to, so a run that is continued
with another strategy or model is refused and not silently mixed up. (One entry: safetensors writes several
in an order that changes from call to call, and equal moments must have equal bytes.)
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray
from safetensors.numpy import save

from fedfer.export.checkpoint import Weights
from fedfer.export.contract import Contract
from fedfer.model.errors import CheckpointError

METADATA_KEY = "fedfer.moments"


def moments_bytes(moments: Weights, strategy: str, contract: Contract) -> bytes:
    """The same bytes for the same moments."""
    data: bytes = save(moments, metadata={METADATA_KEY: f"{strategy} {contract.digest}"})
    return data


@contextmanager
def opened_moments(
    path: Path | None, strategy: str, names: Sequence[str], contract: Contract
) -> Iterator[Callable[[str], NDArray[np.float32] | None]]:
    """A file that `moments_bytes` made, as a function from a moment's name to a copy of it; to None without a
    file.

    Raises CheckpointError if it is missing, damaged, or another strategy's or model's.
    """
    if path is None:
        yield lambda name: None
        return
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            _check(file, f"{strategy} {contract.digest}", names, contract, path.name)
            yield lambda name: _checked(name, file.get_tensor(name), path.name)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"cannot read the server optimizer's state {path.name}: {error}") from None


def _check(file: Any, owner: str, names: Sequence[str], contract: Contract, shown: str) -> None:
    if (file.metadata() or {}).get(METADATA_KEY) != owner:
        raise CheckpointError(
            f"{shown} is not the state of {owner.split()[0]} for this model; continue the run with the "
            "strategy that it was begun with, or begin another",
            code="wrong_model",
        )
    trainable = [weight for weight in contract.weights if weight.role == "trainable"]
    expected = {f"{name}/{weight.name}": list(weight.shape) for name in names for weight in trainable}
    found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
    if {name: list(tensor.get_shape()) for name, tensor in found.items()} != expected:
        raise CheckpointError(f"{shown} has other moments than the model", code="wrong_names")
    if any(tensor.get_dtype() != "F32" for tensor in found.values()):
        raise CheckpointError(f"{shown} is not of float32", code="wrong_dtype")


def _checked(name: str, tensor: NDArray[np.float32], shown: str) -> NDArray[np.float32]:
    if not np.isfinite(tensor).all():
        raise CheckpointError(f"{shown}: {name} is not finite", code="not_finite")
    if name.startswith("v/") and (tensor < 0).any():
        raise CheckpointError(f"{shown}: {name} holds squares below 0", code="out_of_range")
    return tensor
