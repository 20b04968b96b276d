"""Bodies that are no checkpoint of the served model, each with the refusal that it must get.

Each is made from a valid checkpoint: 8 bytes of header length, the header as JSON, the tensors.
"""

import gzip
import json
import pickle
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedfer.export.checkpoint import Weights, checkpoint_bytes, max_header_bytes
from fedfer.export.contract import Contract

Header = dict[str, Any]
Change = tuple[str, Callable[[Header], object], int, str]  # its name, itself, status and code


@dataclass(frozen=True)
class HostileBody:
    name: str
    body: bytes
    status: int
    code: str


def hostile_bodies(contract: Contract, weights: Weights) -> Iterator[HostileBody]:
    """Every hostile body for this model; `weights` are valid ones."""
    valid = checkpoint_bytes(weights, contract)
    yield from _cut(valid)
    yield from _lying_lengths(valid, contract)
    yield from _other_formats(valid)
    yield from _changed_headers(valid, contract)
    yield from _changed_values(weights, contract)


def _cut(valid: bytes) -> Iterator[HostileBody]:
    (header_bytes,) = struct.unpack("<Q", valid[:8])
    tensors = 8 + header_bytes
    for length in (0, 1, 7, 8, 9, tensors - 1, tensors, tensors + 1, len(valid) // 2, len(valid) - 1):
        yield HostileBody(f"cut to {length} bytes", valid[:length], 400, "truncated")


def _lying_lengths(valid: bytes, contract: Contract) -> Iterator[HostileBody]:
    for length in (max_header_bytes(contract) + 1, 2**31, 2**63, 2**64 - 1):
        body = struct.pack("<Q", length) + valid[8:]
        yield HostileBody(f"header length {length}", body, 422, "not_safetensors")
    for length in (0, 1, 17):
        body = struct.pack("<Q", length) + valid[8:]
        yield HostileBody(f"header length {length}", body, 422, "not_safetensors")
    yield HostileBody("bytes after the tensors", valid + b"\0" * 8, 422, "not_safetensors")
    yield HostileBody("twice", valid + valid, 413, "too_large")


def _other_formats(valid: bytes) -> Iterator[HostileBody]:
    yield HostileBody("zeros", bytes(len(valid)), 422, "not_safetensors")
    yield HostileBody("ones", b"\xff" * len(valid), 422, "not_safetensors")
    yield HostileBody("text", b"epoch,loss\n1,0.5\n" * 9, 422, "not_safetensors")
    yield HostileBody("gzip", gzip.compress(valid), 422, "not_safetensors")
    yield HostileBody("zip", b"PK\x03\x04" + valid[4:], 422, "not_safetensors")
    yield HostileBody("pickle", pickle.dumps({"weights": list(range(99))}), 422, "not_safetensors")
    yield HostileBody("tflite", b"\x1c\0\0\0TFL3" + valid[8:], 422, "not_safetensors")


def _repacked(valid: bytes, change: Callable[[Header], object]) -> bytes:
    """The checkpoint with its header changed in place, or replaced by what `change` returns."""
    (header_bytes,) = struct.unpack("<Q", valid[:8])
    header = json.loads(valid[8 : 8 + header_bytes])
    returned = change(header)
    text = returned if isinstance(returned, bytes) else json.dumps(returned or header).encode()
    return struct.pack("<Q", len(text)) + text + valid[8 + header_bytes :]


def _changed_headers(valid: bytes, contract: Contract) -> Iterator[HostileBody]:
    for name, change, status, code in (*_changed_objects(contract), *_changed_tensors(contract)):
        yield HostileBody(f"header: {name}", _repacked(valid, change), status, code)


def _changed_objects(contract: Contract) -> list[Change]:
    first = contract.weights[0].name
    return [
        ("not an object", lambda _: b"[1, 2, 3]", 422, "not_safetensors"),
        ("deep arrays", lambda _: b'{"a":' + b"[" * 3000, 422, "not_safetensors"),
        ("deep objects", lambda _: b'{"a":' * 700 + b"1" + b"}" * 700, 422, "not_safetensors"),
        ("not UTF-8", lambda _: b'{"\xff": 1}', 422, "not_safetensors"),
        (
            "huge number",
            lambda _: b'{"a": {"data_offsets": [0, ' + b"9" * 4000 + b"]}}",
            422,
            "not_safetensors",
        ),
        ("no tensors", lambda _: b"{}", 422, "not_safetensors"),
        ("tensor is null", lambda h: h.update({first: None}), 422, "not_safetensors"),
        ("tensor is a list", lambda h: h.update({first: [1]}), 422, "not_safetensors"),
        ("no model named", lambda h: h.pop("__metadata__") and None, 409, "wrong_model"),
        ("other model", _field("__metadata__", "fedfer.contract", "0" * 64), 409, "wrong_model"),
        ("model is a number", _field("__metadata__", "fedfer.contract", 5), 422, "not_safetensors"),
        ("renamed tensor", lambda h: h.update(other=h.pop(first)), 422, "wrong_names"),
        ("escaped name", lambda h: h.update({"../\x00\x1b": h.pop(first)}), 422, "wrong_names"),
    ]


def _changed_tensors(contract: Contract) -> list[Change]:
    first, last = contract.weights[0].name, contract.weights[-1].name
    return [
        ("unknown dtype", _field(first, "dtype", "F7"), 422, "not_safetensors"),
        ("same size, other dtype", _field(first, "dtype", "I32"), 422, "wrong_dtype"),
        ("other size dtype", _field(first, "dtype", "F16"), 422, "not_safetensors"),
        ("flat shape", _flattened(contract), 422, "wrong_shape"),
        ("negative shape", _field(first, "shape", [-1]), 422, "not_safetensors"),
        ("shape that overflows", _field(first, "shape", [2**40, 2**40]), 422, "not_safetensors"),
        ("shape of text", _field(first, "shape", "48"), 422, "not_safetensors"),
        ("offsets before the start", _field(first, "data_offsets", [-8, 0]), 422, "not_safetensors"),
        ("offsets swapped", _field(first, "data_offsets", [8, 0]), 422, "not_safetensors"),
        ("offsets overlap", _offsets(last, -4, -4), 422, "not_safetensors"),
        ("offsets beyond the end", _offsets(last, 0, 4096), 400, "truncated"),
        ("offsets far beyond", _field(last, "data_offsets", [0, 2**62]), 400, "truncated"),
        ("offsets beyond 64 bits", _field(last, "data_offsets", [0, 2**70]), 422, "not_safetensors"),
        ("offsets as fractions", _field(first, "data_offsets", [0.0, 4.5]), 422, "not_safetensors"),
        ("three offsets", _field(first, "data_offsets", [0, 4, 8]), 422, "not_safetensors"),
    ]


def _field(name: str, key: str, value: object) -> Callable[[Header], None]:
    return lambda header: header[name].__setitem__(key, value)


def _offsets(name: str, begin: int, end: int) -> Callable[[Header], None]:
    """Moves where a tensor begins and ends."""

    def change(header: Header) -> None:
        there = header[name]["data_offsets"]
        header[name]["data_offsets"] = [there[0] + begin, there[1] + end]

    return change


def _flattened(contract: Contract) -> Callable[[Header], None]:
    """Gives a tensor of several dimensions one."""
    name = next(w.name for w in contract.weights if len(w.shape) > 1)

    def change(header: Header) -> None:
        header[name]["shape"] = [int(np.prod(header[name]["shape"]))]

    return change


def _changed_values(weights: Weights, contract: Contract) -> Iterator[HostileBody]:
    variance = next(w.name for w in contract.weights if w.nonnegative)
    for value, name, code in (
        (np.nan, contract.weights[0].name, "not_finite"),
        (np.inf, contract.weights[-1].name, "not_finite"),
        (-np.inf, variance, "not_finite"),
        (-1.0, variance, "out_of_range"),
        (np.float32(-1e-45), variance, "out_of_range"),
    ):
        changed = {key: tensor.copy() for key, tensor in weights.items()}
        changed[name].flat[-1] = value
        yield HostileBody(f"{value} in {name}", checkpoint_bytes(changed, contract), 422, code)
