"""Checkpoints: all weights of a model as one safetensors file, in memory `dict[name, float32 array]`.

The canonical form has the tensors in safetensors' own order and one metadata entry,
`fedfer.contract` = the contract's digest. A checkpoint is named by the sha256 of its bytes, so equal
weights have equal names. No pickle anywhere; whatever is read is checked against the contract first.
"""

import hashlib
import json
import math
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray

from fedfer.export.contract import Contract
from fedfer.model.errors import CheckpointError

METADATA_KEY = "fedfer.contract"
HEADER_ALIGNMENT = 8
CHECK_ELEMENTS = 1 << 17  # smaller ones take and give back the interpreter too often
MAX_SHOWN_CHARS = 64  # of a name that somebody else chose
Weights = dict[str, NDArray[np.float32]]


def checkpoint_bytes(weights: Weights, contract: Contract) -> bytes:
    """Canonical safetensors bytes of `weights`."""
    return b"".join(checkpoint_pieces(weights, contract))


def checkpoint_pieces(weights: Weights, contract: Contract) -> list[bytes | memoryview]:
    """The same in pieces, the tensors as they lie in memory. A server hashes and writes these: the library
    copies all tensors twice, and nothing else of the process runs meanwhile."""
    tensors = {w.name: np.asarray(weights[w.name], np.float32, order="C") for w in contract.weights}
    header: dict[str, Any] = {"__metadata__": {METADATA_KEY: contract.digest}}
    end = 0
    for name, tensor in sorted(tensors.items()):
        offsets = [end, end := end + tensor.nbytes]
        header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": offsets}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % HEADER_ALIGNMENT)
    bodies = (tensors[name].reshape(-1).view(np.uint8).data for name in sorted(tensors))
    return [struct.pack("<Q", len(text)) + text, *bodies]


def digest_of(*pieces: bytes | memoryview) -> str:
    """sha256 in hex: the name of a checkpoint or of a model file."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def max_checkpoint_bytes(contract: Contract) -> int:
    """The most that a checkpoint of this model can measure: tensors and a generous header."""
    return contract.weights_bytes + max_header_bytes(contract) + 8


def max_header_bytes(contract: Contract) -> int:
    return 4096 + sum(256 + 6 * len(w.name) + 24 * len(w.shape) for w in contract.weights)


def load_checkpoint(path: Path, contract: Contract) -> Weights:
    """All weights of a checkpoint file, checked. Raises CheckpointError, which names the file."""
    try:
        return dict(checked_tensors(path, contract))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}", code=error.code) from None


def load_matching(path: Path, contract: Contract) -> Weights:
    """Those of the model's weights that a checkpoint holds, by name, whichever contract it names: of a model
    that trains otherwise, or only in part. Raises CheckpointError, which names the file."""
    try:
        check_size(path, contract)
        entries = _entries(_read_header(path, max_header_bytes(contract)))
        held = tuple(weight for weight in contract.weights if weight.name in entries)
        part = replace(contract, weights=held)
        with _opened(path, part, any_model=True) as file:
            weights: Weights = {weight.name: file.get_tensor(weight.name) for weight in held}
        for weight in held:
            _check_values(weight.name, weights[weight.name], weight.nonnegative)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}", code=error.code) from None
    return weights


def checked_tensors(path: Path, contract: Contract) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Tensors one at a time in the contract's order, each checked against it: memory of one tensor.

    Raises CheckpointError (its `code` says what is wrong); names, shapes and dtypes of all tensors
    are checked before the first is given, values as they come.
    """
    with _opened(path, contract) as file:
        for weight in contract.weights:
            tensor = file.get_tensor(weight.name)
            _check_values(weight.name, tensor, weight.nonnegative)
            yield weight.name, tensor


def check_file(path: Path, contract: Contract) -> None:
    """What `checked_tensors` checks, in the memory of one block: a server does it to every upload.

    Raises CheckpointError.
    """
    with _opened(path, contract), CheckedFile(path, contract) as file:
        file.open()
        block = np.empty(CHECK_ELEMENTS, np.float32)
        for weight in contract.weights:
            num_elements = math.prod(weight.shape)
            for first in range(0, num_elements, CHECK_ELEMENTS):
                values = block[: min(CHECK_ELEMENTS, num_elements - first)]
                file.read_into(weight.name, first, values)
                _check_values(weight.name, values, weight.nonnegative)


@contextmanager
def _opened(path: Path, contract: Contract, any_model: bool = False) -> Iterator[Any]:
    """The file in the safetensors library, with the right model, names, shapes and dtypes."""
    check_header(path, contract)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            if not any_model:
                _check_model(file.metadata() or {}, contract)
            _check_specs(file, contract)
            yield file
    except safetensors.SafetensorError as error:
        raise CheckpointError(
            f"not a valid safetensors file ({_shown(error)}); expected a checkpoint", code="not_safetensors"
        ) from None


def check_header(path: Path, contract: Contract) -> tuple[Mapping[str, int], int]:
    """Refuses a file whose length or header cannot be right, before any other parser sees it; returns where
    among the tensors' bytes each tensor starts, and where in the file these do.

    Raises CheckpointError: too_large, truncated, not_safetensors.
    """
    try:
        size = check_size(path, contract)
        header = _read_header(path, max_header_bytes(contract))
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint: {error.strerror}") from None
    starts, end = _layout(header)
    expected = 8 + len(header) + end
    if size < expected:
        raise CheckpointError(f"{size} bytes; its header promises {expected}", code="truncated")
    return starts, 8 + len(header)


def check_size(path: Path, contract: Contract) -> int:
    """The file's size in bytes. Raises OSError, and CheckpointError for more than the model can have."""
    size = path.stat().st_size
    if size > max_checkpoint_bytes(contract):
        raise CheckpointError(
            f"{size} bytes; expected at most {max_checkpoint_bytes(contract)}", code="too_large"
        )
    return size


class CheckedFile:
    """A checkpoint file that `checked_tensors` passed before, read again a block at a time, from any thread.

    `starts` is where each tensor starts among the tensors' bytes. Every read opens the file for itself unless
    `open` keeps it open. (A round may have more updates than a process may have open files.) Use it as a
    context manager.
    """

    def __init__(self, path: Path, contract: Contract) -> None:
        """Raises CheckpointError if the file is gone or is no longer what was checked."""
        self.starts, self._data_start = check_header(path, contract)
        if self.starts.keys() != {weight.name for weight in contract.weights}:
            raise CheckpointError(f"{path.name} has other tensors than the model", code="wrong_names")
        self._path = path
        self._descriptor: int | None = None

    def open(self) -> None:
        """Keeps the file open until the end of the `with`. Raises CheckpointError."""
        if self._descriptor is None:
            try:
                self._descriptor = os.open(self._path, os.O_RDONLY)
            except OSError as error:
                raise self._unreadable(error) from None

    def read_into(self, name: str, first: int, out: NDArray[np.float32]) -> None:
        """Fills `out` with the tensor's flat elements from `first` on, and with what lies behind them if
        it is longer. Raises CheckpointError."""
        offset = self._data_start + self.starts[name] + first * out.itemsize
        try:
            if self._descriptor is not None:
                num_bytes = os.preadv(self._descriptor, [out.data], offset)
            else:
                with self._path.open("rb", buffering=0) as file:
                    num_bytes = os.preadv(file.fileno(), [out.data], offset)
        except OSError as error:
            raise self._unreadable(error) from None
        if num_bytes != out.nbytes:
            raise CheckpointError(f"{self._path.name} ends inside {name}", code="truncated")

    def _unreadable(self, error: OSError) -> CheckpointError:
        return CheckpointError(f"cannot read {self._path.name}: {error.strerror}")

    def __enter__(self) -> "CheckedFile":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _read_header(path: Path, max_bytes: int) -> bytes:
    """The header's JSON. Raises CheckpointError, OSError."""
    with path.open("rb", buffering=0) as file:
        start = file.read(8)
        if len(start) < 8:
            raise CheckpointError(f"{len(start)} bytes; expected a safetensors header", code="truncated")
        (header_bytes,) = struct.unpack("<Q", start)
        if header_bytes > max_bytes:
            raise CheckpointError(
                f"header of {header_bytes} bytes; expected at most {max_bytes}", code="not_safetensors"
            )
        header = file.read(header_bytes)
    if len(header) < header_bytes:
        raise CheckpointError(f"file ends inside its header of {header_bytes} bytes", code="truncated")
    return header


@lru_cache(maxsize=16)  # the updates of a round mostly have one and the same
def _layout(header: bytes) -> tuple[Mapping[str, int], int]:
    """Where each tensor starts, and where the last one ends. Raises CheckpointError."""
    places = {name: _offsets(each) for name, each in _entries(header).items() if name != "__metadata__"}
    starts = {name: begin for name, (begin, _) in places.items()}
    return MappingProxyType(starts), max((end for _, end in places.values()), default=0)


def _entries(header: bytes) -> dict[str, Any]:
    """Raises CheckpointError."""
    try:
        entries = json.loads(header)
    except (ValueError, RecursionError):
        raise CheckpointError("header is not JSON", code="not_safetensors") from None
    if not isinstance(entries, dict):
        raise CheckpointError("header is not a JSON object", code="not_safetensors")
    return entries


def _offsets(entry: object) -> tuple[int, int]:
    match entry:
        case {"data_offsets": [int(begin), int(end)]} if 0 <= begin <= end < 2**63:
            return begin, end
    raise CheckpointError("header gives a tensor without valid data_offsets", code="not_safetensors")


def _check_model(metadata: Mapping[str, str], contract: Contract) -> None:
    stored = metadata.get(METADATA_KEY)
    if stored != contract.digest:
        raise CheckpointError(
            f"checkpoint of model {_shown(stored)}; expected one of {contract.digest}, the model at hand",
            code="wrong_model",
        )


def _check_specs(file: Any, contract: Contract) -> None:
    names, expected = set(file.keys()), {weight.name for weight in contract.weights}
    if names != expected:
        missing = [_shown(name) for name in sorted(expected - names)[:3]]
        extra = [_shown(name) for name in sorted(names - expected)[:3]]
        raise CheckpointError(f"tensor names differ: missing {missing}, unknown {extra}", code="wrong_names")
    for weight in contract.weights:
        tensor = file.get_slice(weight.name)
        if tensor.get_dtype() != "F32":
            raise CheckpointError(f"{weight.name} is {tensor.get_dtype()}; expected F32", code="wrong_dtype")
        if tuple(tensor.get_shape()) != weight.shape:
            raise CheckpointError(
                f"{weight.name} has shape {tuple(tensor.get_shape())}; expected {weight.shape}",
                code="wrong_shape",
            )


def _check_values(name: str, tensor: NDArray[np.float32], nonnegative: bool) -> None:
    if not np.isfinite(tensor).all():
        raise CheckpointError(
            f"{name} holds NaN or infinity; expected finite numbers: training diverged, "
            "lower the learning rate",
            code="not_finite",
        )
    if nonnegative and (tensor < 0).any():
        raise CheckpointError(f"{name} is a variance and holds numbers below 0", code="out_of_range")


def _shown(value: object) -> str:
    """Somebody else's words, cut to a length and without control characters."""
    return ascii(str(value)[:MAX_SHOWN_CHARS])
