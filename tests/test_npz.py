"""Examples from .npz files: what they hold, what is refused, and a fleet that trains on sequences."""

import io
import json
import struct
import subprocess
import sys
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import prepared
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedfer.model.data import to_float
from fedfer.model.errors import DataError, UsageError
from fedfer.model.npz import MAX_TOKEN, read_npz
from fedfer.model.sources import load_images

LABELS = np.array([0, 1, 2, 1])


def saved(directory: Path, **arrays: Any) -> Path:
    path = directory / "examples.npz"
    np.savez_compressed(path, **arrays)
    return path


@pytest.mark.parametrize(
    ("inputs", "dtype", "scaled"),
    [
        (np.arange(4 * 3, dtype=np.float64).reshape(4, 3), np.float32, 1.0),
        (np.arange(4 * 3, dtype=np.int64).reshape(4, 3), np.int32, 1.0),
        (np.arange(4 * 2 * 2, dtype=np.uint8).reshape(4, 2, 2, 1), np.uint8, 255.0),
    ],
    ids=["rows", "tokens", "images"],
)
def test_numbers_and_tokens_are_taken_as_they_are_and_pixels_divided(
    inputs: NDArray[Any], dtype: type, scaled: float, tmp_path: Path
) -> None:
    found = read_npz(saved(tmp_path, inputs=inputs, labels=LABELS), skip=1, take=2)
    assert found.images.dtype == dtype
    assert found.labels.dtype == np.uint8
    np.testing.assert_array_equal(found.images, inputs[1:3])
    np.testing.assert_array_equal(found.labels, LABELS[1:3])
    np.testing.assert_allclose(to_float(found.images), inputs[1:3] / scaled, rtol=1e-6)


def test_owners_are_read_where_they_are_asked_for(tmp_path: Path) -> None:
    names = np.array(["ann", "ben", "ann", "cleo"])
    path = str(saved(tmp_path, inputs=np.zeros((4, 2)), labels=LABELS, owners=names))
    owners = load_images(path, owner_column="owners").owners
    assert owners is not None
    assert owners.tolist() == names.tolist()
    assert load_images(path).owners is None
    with pytest.raises(UsageError, match="no column but owners"):
        load_images(path, owner_column="user")


ROWS = np.zeros((4, 3), np.float32)
REFUSED = {
    "no labels": ({"inputs": ROWS}, "no array labels"),
    "fewer labels": ({"inputs": ROWS, "labels": LABELS[:3]}, r"labels are \(3,\); expected one for each"),
    "labels that are fractions": ({"inputs": ROWS, "labels": LABELS / 2}, "labels are float64"),
    "labels below 0": ({"inputs": ROWS, "labels": LABELS - 1}, r"labels are -1\.\.1; expected 0\.\.255"),
    "too many classes": ({"inputs": ROWS, "labels": LABELS + 254}, r"labels are 254\.\.256"),
    "not a number": ({"inputs": ROWS + np.nan, "labels": LABELS}, "NaN"),
    "beyond float32": ({"inputs": ROWS.astype(float) + 1e300, "labels": LABELS}, "beyond float32"),
    "a negative token": ({"inputs": ROWS.astype(int) - 1, "labels": LABELS}, "expected tokens 0"),
    "a large token": ({"inputs": ROWS.astype(int) + MAX_TOKEN + 1, "labels": LABELS}, "expected tokens 0"),
    "single numbers": ({"inputs": np.zeros(4), "labels": LABELS}, r"inputs are float64 \(4,\); expected"),
    "other types": ({"inputs": ROWS.astype(np.float16), "labels": LABELS}, "inputs are float16"),
    "text": ({"inputs": np.array(["a"] * 4), "labels": LABELS}, "inputs are <U1"),
    "columns": ({"inputs": np.asfortranarray(np.ones((4, 3))), "labels": LABELS}, "in columns"),
    "nothing": ({"inputs": ROWS[:0], "labels": LABELS[:0]}, "0 examples; expected some"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_arrays_that_are_no_examples_are_refused(case: str, tmp_path: Path) -> None:
    arrays, words = REFUSED[case]
    with pytest.raises(DataError, match=words) as caught:
        read_npz(saved(tmp_path, **arrays))
    assert str(caught.value).startswith(f"{tmp_path / 'examples.npz'}: ")


def test_objects_are_not_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "examples.npz"
    np.savez(path, inputs=np.array([{}, {}], object), labels=np.arange(2))
    with pytest.raises(DataError, match="inputs are object"):
        read_npz(path)


def npy(shape: tuple[int, ...], data: bytes) -> bytes:
    """A .npy of float32 that says it has this shape."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def test_a_shape_that_is_not_there_takes_no_memory(tmp_path: Path) -> None:
    """numpy.load would ask for 4 TB first."""
    path = tmp_path / "examples.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("inputs.npy", npy((10**6, 10**6), b"1234"))
        file.writestr("labels.npy", npy((1,), b"1234"))
    with pytest.raises(
        DataError, match=r"inputs are float32 \(1000000, 1000000\), which are not its \d+ bytes"
    ):
        read_npz(path)


def valid() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, inputs=ROWS, labels=LABELS)
    return file.getvalue()


@given(place=st.integers(0, len(valid()) - 1), value=st.integers(0, 255), length=st.integers(0, 10**4))
def test_a_damaged_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: int, length: int
) -> None:
    content = bytearray(valid())
    content[place] = value
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    path.write_bytes(content[:length])
    with suppress(DataError):
        assert len(read_npz(path)) <= 4


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*none\.npz: No such file"):
        load_images(str(tmp_path / "none.npz"))
    with pytest.raises(DataError, match="expected some after the first 3, 2"):
        read_npz(saved(tmp_path, inputs=ROWS, labels=LABELS), skip=3, take=2)


SCENARIO = """
name = "tokens"
[model]
path = "tokens.tflite"
[data]
source = "tokens.npz"
take = 240
[holdout]
source = "tokens.npz"
skip = 240
[partition]
scheme = "iid"
num_devices = 4
[run]
num_rounds = 3
[run.rounds]
num_clients = 4
local_epochs = 10
batch_size = 10
learning_rate = 1.0
"""


def fedfer(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fedfer.cli.main", *arguments]
    return prepared.run(command, cwd=place)


def test_a_fleet_learns_from_sequences_of_tokens(tmp_path: Path) -> None:
    """The class is the kind of token that most of a sequence is of: devices, holdout, evaluation."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    inputs = rng.integers(0, 6, (300, 6)) + 6 * labels[:, None] * (rng.random((300, 6)) < 0.8)
    np.savez(tmp_path / "tokens.npz", inputs=inputs, labels=labels)
    (tmp_path / "tokens.toml").write_text(SCENARIO)
    (tmp_path / "npz_models.py").write_text((Path(__file__).parent / "npz_models.py").read_text())
    exported = fedfer(tmp_path, "export", "npz_models:tokens_model", "--output=tokens.tflite")
    assert exported.returncode == 0, exported.stderr
    done = fedfer(tmp_path, "simulate", "tokens.toml", "--output=out")
    assert done.returncode == 0, done.stdout + done.stderr
    rounds = json.loads((tmp_path / "out" / "record.json").read_text())["rounds"]
    assert rounds[0]["accuracy"] < 0.6
    assert rounds[-1]["accuracy"] > 0.9
    options = ["--weights=out/final.safetensors", "--data=tokens.npz", "--skip=240", "--json"]
    measured = fedfer(tmp_path, "evaluate", "tokens.tflite", *options)
    assert json.loads(measured.stdout)["accuracy"] == rounds[-1]["accuracy"]
