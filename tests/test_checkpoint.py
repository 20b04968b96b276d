import contextlib
import hashlib
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from average_helpers import SMALL, constant_weights, random_weights, write_checkpoint
from hypothesis import given
from hypothesis import strategies as st

from fedfer.export import checkpoint
from fedfer.export.checkpoint import (
    METADATA_KEY,
    CheckedFile,
    check_file,
    checked_tensors,
    checkpoint_bytes,
    checkpoint_pieces,
    digest_of,
    load_checkpoint,
    max_checkpoint_bytes,
    max_header_bytes,
)
from fedfer.export.contract import WeightSpec
from fedfer.model.errors import CheckpointError

GOLDEN_HEADER: dict[str, dict[str, Any]] = {
    "__metadata__": {"fedfer.contract": SMALL.digest},
    "dense/kernel": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "norm/variance": {"dtype": "F32", "shape": [3], "data_offsets": [24, 36]},
    "scale": {"dtype": "F32", "shape": [], "data_offsets": [36, 40]},
}


def packed(header: object, tensors: bytes = struct.pack("<10f", *range(10))) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + tensors


def refusal(tmp_path: Path, data: bytes) -> CheckpointError:
    """What reading the file raises, and checking it block by block too."""
    path = tmp_path / "checkpoint"
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, SMALL)
    with pytest.raises(CheckpointError) as checked:
        check_file(path, SMALL)
    assert (checked.value.code, f"{path}: {checked.value}") == (caught.value.code, str(caught.value))
    return caught.value


def test_golden_bytes() -> None:
    """The format down to its bytes: header length, header padded to 8 bytes, little-endian f32."""
    numbers = iter(np.arange(10, dtype=np.float32))
    weights = {
        w.name: np.array([next(numbers) for _ in range(max(1, int(np.prod(w.shape))))], np.float32).reshape(
            w.shape
        )
        for w in SMALL.weights
    }
    header = json.dumps(GOLDEN_HEADER, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    assert checkpoint_bytes(weights, SMALL) == packed(header)


@given(shapes=st.dictionaries(st.text(max_size=5), st.lists(st.integers(0, 3), max_size=3), max_size=5))
def test_bytes_are_those_of_the_safetensors_library(shapes: dict[str, list[int]]) -> None:
    specs = tuple(WeightSpec(name, tuple(shape), "float32", "trainable") for name, shape in shapes.items())
    contract = replace(SMALL, weights=specs)
    weights = random_weights(1, contract)
    expected = safetensors.numpy.save(weights, metadata={METADATA_KEY: contract.digest})
    assert checkpoint_bytes(weights, contract) == expected
    assert digest_of(*checkpoint_pieces(weights, contract)) == hashlib.sha256(expected).hexdigest()


def test_save_and_load_keep_every_bit(tmp_path: Path) -> None:
    weights = random_weights(1)
    loaded = load_checkpoint(write_checkpoint(tmp_path, weights), SMALL)
    assert {name: tensor.tobytes() for name, tensor in loaded.items()} == {
        name: tensor.tobytes() for name, tensor in weights.items()
    }
    assert list(loaded) == [w.name for w in SMALL.weights]


def test_equal_weights_have_equal_names() -> None:
    one, other = random_weights(1), dict(reversed(random_weights(1).items()))
    assert digest_of(checkpoint_bytes(one, SMALL)) == digest_of(checkpoint_bytes(other, SMALL))


def test_a_fault_in_any_block_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "CHECK_ELEMENTS", 4)  # dense/kernel has 6 elements: blocks of 4 and 2
    check_file(write_checkpoint(tmp_path, random_weights(1)), SMALL)
    for place in range(6):
        weights = random_weights(1)
        weights["dense/kernel"].flat[place] = np.nan
        with pytest.raises(CheckpointError, match="dense/kernel holds NaN"):
            check_file(write_checkpoint(tmp_path, weights), SMALL)


def test_read_in_blocks(tmp_path: Path) -> None:
    weights = random_weights(3)
    with CheckedFile(write_checkpoint(tmp_path, weights), SMALL) as file:
        block = np.empty(4, np.float32)
        file.read_into("dense/kernel", 2, block)
        np.testing.assert_array_equal(block, weights["dense/kernel"].ravel()[2:])
        with pytest.raises(CheckpointError, match="ends inside scale"):
            file.read_into("scale", 0, block)


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in GOLDEN_HEADER.items() if key != name}


def with_entry(name: str, **changed: object) -> dict[str, Any]:
    return {**GOLDEN_HEADER, name: {**GOLDEN_HEADER.get(name, {}), **changed}}


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (without("__metadata__"), "wrong_model"),
        (with_entry("__metadata__", **{"fedfer.contract": "0" * 64}), "wrong_model"),
        (with_entry("__metadata__", **{"fedfer.contract": 7}), "not_safetensors"),
        (with_entry("scale", dtype="F64"), "not_safetensors"),
        (with_entry("scale", dtype="I32"), "wrong_dtype"),
        (with_entry("scale", dtype="F99"), "not_safetensors"),
        (with_entry("scale", shape=[1]), "wrong_shape"),
        (with_entry("scale", shape=[2]), "not_safetensors"),
        (with_entry("scale", shape=[-1]), "not_safetensors"),
        (with_entry("scale", shape=[2**62, 4]), "not_safetensors"),
        (with_entry("scale", data_offsets=[32, 36]), "not_safetensors"),
        (with_entry("scale", data_offsets=[-4, 0]), "not_safetensors"),
        (with_entry("scale", data_offsets=[36, 10**30]), "not_safetensors"),
        (with_entry("scale", data_offsets=[36, 44]), "truncated"),
        (with_entry("scale", data_offsets=["36", "40"]), "not_safetensors"),
        (with_entry("scale", data_offsets=[36.0, 40.0]), "not_safetensors"),
        (with_entry("scale", data_offsets=None), "not_safetensors"),
        ({**without("scale"), "other": GOLDEN_HEADER["scale"]}, "wrong_names"),
        ({**without("scale"), "\x1b[31m" * 9: GOLDEN_HEADER["scale"]}, "wrong_names"),
        ([], "not_safetensors"),
        (None, "not_safetensors"),
        (b"{" * 200, "not_safetensors"),
        (b'{"a":' + b"[" * 2000, "not_safetensors"),
        (b"\xff\xfe", "not_safetensors"),
        (b"", "not_safetensors"),
    ],
)
def test_headers_that_lie(tmp_path: Path, header: object, code: str) -> None:
    error = refusal(tmp_path, packed(header))
    assert error.code == code
    assert str(error).isprintable()


@given(length=st.integers(0, len(packed(GOLDEN_HEADER)) - 1))
def test_every_truncation_is_named(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    assert refusal(tmp_path_factory.mktemp("cut"), packed(GOLDEN_HEADER)[:length]).code == "truncated"


@given(data=st.binary(max_size=400))
def test_noise_is_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    assert refusal(tmp_path_factory.mktemp("noise"), data).code in {"truncated", "not_safetensors"}


@given(place=st.integers(0, len(packed(GOLDEN_HEADER)) - 41), value=st.integers(0, 255))
def test_a_changed_header_byte_never_raises_anything_else(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: int
) -> None:
    data = bytearray(packed(GOLDEN_HEADER))
    data[place] = value
    path = tmp_path_factory.mktemp("changed") / "checkpoint"
    path.write_bytes(data)
    loaded = {}
    with contextlib.suppress(CheckpointError):
        loaded = load_checkpoint(path, SMALL)
        check_file(path, SMALL)
    assert not loaded or {name: tensor.shape for name, tensor in loaded.items()} == {
        w.name: w.shape for w in SMALL.weights
    }


def test_trailing_bytes(tmp_path: Path) -> None:
    assert refusal(tmp_path, packed(GOLDEN_HEADER) + b"\0" * 4).code == "not_safetensors"


def test_sizes_beyond_the_model(tmp_path: Path) -> None:
    assert refusal(tmp_path, bytes(max_checkpoint_bytes(SMALL) + 1)).code == "too_large"
    error = refusal(tmp_path, struct.pack("<Q", max_header_bytes(SMALL) + 1) + b"{}")
    assert (error.code, "expected at most" in str(error)) == ("not_safetensors", True)
    assert refusal(tmp_path, struct.pack("<Q", 2**64 - 1)).code == "not_safetensors"


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("scale", np.nan, "not_finite"),
        ("dense/kernel", np.inf, "not_finite"),
        ("norm/variance", -np.inf, "not_finite"),
        ("norm/variance", -1e-30, "out_of_range"),
    ],
)
def test_values(tmp_path: Path, name: str, value: float, code: str) -> None:
    weights = constant_weights(1)
    weights[name].flat[-1] = value
    error = refusal(tmp_path, checkpoint_bytes(weights, SMALL))
    assert (error.code, name in str(error)) == (code, True)


def test_header_is_checked_before_any_tensor_is_given(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    path.write_bytes(packed(with_entry("scale", shape=[1])))
    with pytest.raises(CheckpointError, match="scale has shape"):
        next(checked_tensors(path, SMALL))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none: cannot read the checkpoint: No such file"):
        load_checkpoint(tmp_path / "none", SMALL)
