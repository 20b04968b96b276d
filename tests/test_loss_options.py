"""Losses by options of `fedfer export`, each file held against Keras by the export's own check."""

import json
import subprocess
import sys
from pathlib import Path

import prepared
import pytest

from fedfer.export.contract import read_contract
from fedfer.export.loss_settings import BINARY, DENSE, SPARSE, SQUARED, LossSettings, TargetSpec
from fedfer.export.runtime import available_runtimes


def export(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run in this folder, so that `keras_models:function` is found."""
    command = [sys.executable, "-m", "fedfer.cli.main", "export", *arguments]
    here = Path(__file__).parent
    return prepared.run(command, cwd=here)


def loss_by(tmp_path: Path, *arguments: str) -> LossSettings:
    """What the contract says after `fedfer export ARGUMENTS`, which must succeed."""
    path = tmp_path / "model.tflite"
    done = export(*arguments, "--output", str(path))
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert done.stdout.count("loss of `train` as in Keras") == len(available_runtimes())
    return read_contract(path).training.loss


def test_logits_by_option(tmp_path: Path) -> None:
    found = loss_by(tmp_path, "keras_models:logits_model", "--from-logits", "--label-smoothing", "0.1")
    assert found == LossSettings(SPARSE, from_logits=True, label_smoothing=0.1)


def test_class_weights_of_a_file(tmp_path: Path) -> None:
    weights = tmp_path / "weights.json"
    weights.write_text(json.dumps({"b": 3}))
    arguments = ("keras_models:mobile_model", "--labels", "a,b,c", "--class-weights", str(weights))
    assert loss_by(tmp_path, *arguments) == LossSettings(class_weights=(1.0, 3.0, 1.0))


def test_class_weights_that_balance_a_csv(tmp_path: Path) -> None:
    """One image of class 0, two of class 1, three of class 2: 6 / (3 * 1), 6 / (3 * 2), 6 / (3 * 3)."""
    data = tmp_path / "faces.csv"
    rows = [f"{label},{' '.join(['7'] * 48 * 48)}" for label in (0, 1, 1, 2, 2, 2)]
    data.write_text("\n".join(["emotion,pixels", *rows]))
    found = loss_by(tmp_path, "keras_models:mobile_model", "--class-weights", f"balanced:{data}")
    assert found.class_weights == (2.0, 1.0, 2 / 3)


def test_a_loss_by_name_goes_before_the_compiled_one(tmp_path: Path) -> None:
    found = loss_by(tmp_path, "whole_models:regressor", "--loss", BINARY, "--from-logits")
    assert found == LossSettings(BINARY, from_logits=True)
    path = tmp_path / "model.tflite"
    assert read_contract(path).target == TargetSpec("targets", "float32", (3,))


@pytest.mark.parametrize("loss", [DENSE, SQUARED])
def test_a_classifier_by_another_loss(tmp_path: Path, loss: str) -> None:
    assert loss_by(tmp_path, "keras_models:mobile_model", "--loss", loss) == LossSettings(loss)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--label-smoothing", "1"], "expected a label smoothing of at least 0 and below 1; received 1.0"),
        (["--loss", SQUARED, "--from-logits"], "has no logits, label smoothing or class weights"),
        (["--class-weights", "none.json"], "cannot read none.json: No such file or directory"),
        (["--class-weights", "balanced:none.csv"], "none.csv"),
        (["--class-weights", "balanced:drawn"], "drawn faces have no end: say how many to take"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = export("keras_models:mobile_model", *arguments, "--output", str(tmp_path / "model.tflite"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []
