"""`fedfer train` as a person runs it: real processes, killed and resumed."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import prepared
import pytest

from fedfer.cli.train import duration
from fedfer.export.checkpoint import load_checkpoint
from fedfer.export.contract import read_contract
from fedfer.model.data import LabelledImages
from fedfer.model.errors import UsageError
from fedfer.model.splits import split_off

HERE = Path(__file__).parent
SETTINGS = ["keras_models:tiny_model", "--data", "drawn", "--take", "84", "--batch-size", "14", "--seed", "3"]


def command(output: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "fedfer.cli.main", "train", *SETTINGS, "--output", str(output), *arguments]


def run(output: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return prepared.run(command(output, *arguments), cwd=HERE)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_tflite: Path) -> tuple[Path, str]:
    """Four epochs without a break: the checkpoint and what was printed."""
    output = tmp_path_factory.mktemp("train") / "whole.safetensors"
    done = run(output, "--epochs", "4", "--for", str(tiny_tflite))
    assert (done.returncode, done.stderr) == (0, "")
    return output, done.stdout


def curves(output: Path) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(output.with_suffix(".json").read_text())
    return body


def test_it_learns_and_says_so(whole: tuple[Path, str]) -> None:
    output, said = whole
    body = curves(output)
    losses = [epoch["loss"] for epoch in body["history"]]
    assert [epoch["number"] for epoch in body["history"]] == [1, 2, 3, 4]
    assert losses[-1] < losses[0]
    validation = [epoch["validation_loss"] for epoch in body["history"]]
    assert body["best"] == 1 + int(np.argmin(validation))
    assert said.startswith("tiny, 16,007 parameters: 76 images, 8 to measure on\n")
    assert said.count("\nepoch ") == 4
    assert f"wrote {output}, epoch {body['best']} of 4" in said
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_the_checkpoint_is_one_of_the_model_file(whole: tuple[Path, str], tiny_tflite: Path) -> None:
    """As `fedfer serve --weights` reads it."""
    weights = load_checkpoint(whole[0], read_contract(tiny_tflite))
    assert sum(weight.size for weight in weights.values()) == 16_007


def test_a_killed_training_goes_on_as_if_nothing_had_been(
    whole: tuple[Path, str], tmp_path: Path, tiny_tflite: Path
) -> None:
    """SIGKILL after the second epoch; the same command again ends with the same bits."""
    output = tmp_path / "start.safetensors"
    arguments = ["--epochs", "4", "--for", str(tiny_tflite)]
    with subprocess.Popen(command(output, *arguments), stdout=subprocess.PIPE, text=True, cwd=HERE) as child:
        assert child.stdout is not None
        assert any(line.startswith("epoch 2:") for line in child.stdout)
        child.send_signal(signal.SIGKILL)
    done = run(output, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert "going on after epoch" in done.stdout.splitlines()[0]
    assert output.read_bytes() == whole[0].read_bytes()
    for one, other in zip(curves(output)["history"], curves(whole[0])["history"], strict=True):
        assert {**one, "duration_sec": 0} == {**other, "duration_sec": 0}


def test_other_settings_are_not_mixed_into_a_state(whole: tuple[Path, str], tmp_path: Path) -> None:
    output = tmp_path / "start.safetensors"
    output.with_suffix(".state").write_bytes(whole[0].with_suffix(".state").read_bytes())
    done = run(output, "--epochs", "4", "--shift", "0.2")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "is the state of another training (model, data or settings differ); delete it" in done.stderr
    assert not output.exists()


def test_early_stopping_and_class_weights(tmp_path: Path) -> None:
    """A learning rate that spoils everything: the first epoch stays the best, the next two end it."""
    output = tmp_path / "start.safetensors"
    stopping = ["--epochs", "9", "--patience", "2", "--learning-rate", "1e-9", "--optimizer", "sgd"]
    done = run(output, *stopping, "--class-weights", "balanced", "--no-flip", "--validation-share", "0.3")
    assert (done.returncode, done.stderr) == (0, "")
    body = curves(output)
    assert len(body["history"]) == min(9, body["best"] + 2)
    assert len(body["plan"]["loss"]["class_weights"]) == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "start.bin"], "start.bin is no name for a checkpoint"),
        (["--validation-share", "1"], "expected a share above 0 and below 1"),
        (["--data", "missing.csv"], "missing.csv"),
        (["--learning-rate", "-1"], "expected a learning rate above 0; received -1.0"),
    ],
)
def test_settings_that_do_not_fit(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = run(tmp_path / "start.safetensors", *arguments)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_share_kept_apart() -> None:
    data = LabelledImages(np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1), np.arange(10, dtype=np.uint8))
    train, apart = split_off(data, 0.3, seed=1)
    assert (len(train), len(apart)) == (7, 3)
    assert sorted([*train.labels, *apart.labels]) == list(range(10))
    assert np.array_equal(split_off(data, 0.3, seed=1)[1].labels, apart.labels)
    with pytest.raises(UsageError, match="leaves images to train on"):
        split_off(data.take(slice(1)), 0.5, seed=1)


def test_durations_in_words() -> None:
    assert [duration(seconds) for seconds in (0.4, 59, 61, 3600 + 5 * 60)] == ["0 s", "59 s", "1m01", "1h05"]
