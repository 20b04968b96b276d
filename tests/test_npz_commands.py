"""`fedfer train` and `fedfer inference` on what is no image: tokens, rows and sequences of numbers."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import prepared
import pytest
from numpy.typing import NDArray
from prepared import call_isolated

from fedfer.export.flatbuffer import is_builtin_only, op_census, signatures
from fedfer.export.inference_card import read_card
from fedfer.export.runtime import available_runtimes

TAKE = 240  # to train on; 60 more to measure


def examples(name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Inputs by the models of npz_models, with classes that can be learnt from them."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2 if name == "rows" else 3, TAKE + 60)
    if name == "tokens":
        return rng.integers(0, 6, (len(labels), 6)) + 6 * labels[:, None], labels
    if name == "nested_tokens":  # the classes lie within what int8 would make one number
        return 500 + labels[:, None] + 3 * rng.integers(0, 2, (len(labels), 6)), labels
    shape = (len(labels), 5) if name == "rows" else (len(labels), 6, 2)
    ups = labels.reshape(-1, *[1] * (len(shape) - 1))
    return (rng.normal(size=shape) + 2.0 * ups).astype(np.float32), labels


def fedfer(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return prepared.run([sys.executable, "-m", "fedfer.cli.main", *arguments], cwd=place)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models' code and examples for each."""
    folder = tmp_path_factory.mktemp("npz")
    (folder / "npz_models.py").write_text((Path(__file__).parent / "npz_models.py").read_text())
    for name in ("tokens", "nested_tokens", "rows", "sequences"):
        inputs, labels = examples(name)
        np.savez(folder / f"{name}.npz", inputs=inputs, labels=labels)
    return folder


def infer(path: Path, runtime: str, inputs: NDArray[Any]) -> NDArray[np.float32]:
    from fedfer.export.inference_run import InferenceModel

    return InferenceModel(path, runtime=runtime).infer(inputs.astype(np.float32))


@pytest.mark.parametrize(
    ("name", "input_type"),
    [("tokens", "int32"), ("nested_tokens", "int32"), ("rows", "float32"), ("sequences", "float32")],
)
def test_train_then_a_small_file(place: Path, name: str, input_type: str) -> None:
    """Trained until it knows the classes, and as good in int8 (float16) as before, in every runtime."""
    source, start = f"npz_models:{name}_model", f"{name}.safetensors"
    data = [f"--data={name}.npz", f"--take={TAKE}"]
    steps = ["--epochs=40", "--learning-rate=0.02", "--batch-size=16", "--patience=0"]
    trained = fedfer(place, "train", source, *data, *steps, f"--output={start}")
    assert (trained.returncode, trained.stderr) == (0, "")
    assert "parameters: 216 examples, 24 to measure on" in trained.stdout
    inputs, labels = (part[TAKE:] for part in examples(name))
    for precision in ("int8", "float16") if name == "rows" else ("int8",):
        file = place / f"{name}-{precision}.tflite"
        options = [f"--weights-from={start}", f"--precision={precision}", f"--output={file}"]
        made = fedfer(place, "inference", source, *options, f"--data={name}.npz", f"--calibrate={TAKE}")
        assert (made.returncode, made.stderr) == (0, "")
        lines = made.stdout.splitlines()
        assert lines[0] == "measured on 60 examples"
        assert [line.split()[0] for line in lines[2:4]] == ["float32", precision]
        assert min(float(line.split()[3].rstrip("%")) for line in lines[2:4]) > 85
        (signature,) = signatures(file.read_bytes())
        assert [tensor.dtype for tensor in signature.inputs] == [input_type]
        assert is_builtin_only(op_census(file.read_bytes()))
        card = read_card(file.read_bytes())
        assert card is not None
        assert (card.image_shape, card.input_type) == (inputs.shape[1:], input_type)
        for runtime in available_runtimes():
            seen = call_isolated(infer, file, runtime, inputs)
            assert np.mean(seen.argmax(axis=1) == labels) > 0.85, (runtime, precision)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["npz_models:rows_model", "--data=rows.npz", "--shift=0.2"],
            "--shift changes images, uint8 (n, H, W, C), and the inputs are float32 (270, 5); leave it out",
        ),
        (
            ["npz_models:tokens_model", "--data=tokens.npz", "--rotate=5"],
            "--rotate changes images, uint8 (n, H, W, C), and the inputs are tokens; leave it out",
        ),
        (
            ["npz_models:tokens_model", "--data=nested_tokens.npz"],
            "; expected 0..19, as the model's Embedding has rows",
        ),
        (
            ["npz_models:rows_model", "--data=sequences.npz"],
            "expected one or more inputs of shape (5,); received 270 of shape (6, 2)",
        ),
        (["npz_models:rows_regressor", "--data=rows.npz"], "`fedfer train` is for classifiers"),
    ],
)
def test_what_cannot_be_trained_is_said(place: Path, arguments: list[str], message: str) -> None:
    done = fedfer(place, "train", *arguments, "--output=refused.safetensors")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert message in done.stderr
    assert not (place / "refused.safetensors").exists()


def test_fractions_are_no_tokens_and_regressors_are_not_measured(place: Path) -> None:
    inputs, labels = examples("tokens")
    np.savez(place / "fractions.npz", inputs=inputs + 0.5, labels=labels)
    (place / "any.safetensors").write_bytes(b"")
    for model, data, message in (
        ("tokens_model", "fractions", "tokens takes tokens, whole numbers 0..19"),
        ("rows_regressor", "rows", "`fedfer inference` is for classifiers"),
    ):
        options = [f"--data={data}.npz", "--weights-from=any.safetensors", "--output=refused.tflite"]
        done = fedfer(place, "inference", f"npz_models:{model}", *options)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert message in done.stderr


def test_what_a_runtime_says_is_one_line(place: Path) -> None:
    """Of tokens that the file has no row for: the phone's own words."""
    assert fedfer(place, "export", "npz_models:tokens_model", "--output=tokens.tflite").returncode == 0
    done = fedfer(place, "evaluate", "tokens.tflite", "--data=nested_tokens.npz")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "failed in `infer`" in done.stderr
