"""The check before an export is written: what is right passes, each kind of wrong is found."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from prepared import in_tensorflow
from sabotage import ADAM_WAYS, WAYS, verified

from fedfer.export.check import tensors_apart
from fedfer.export.contract import read_contract
from fedfer.export.runtime import available_runtimes

Findings = dict[str, list[tuple[bool, str]]]
TESTS = Path(__file__).parent
COMMAND = "import sys; from sabotage import export_command; sys.exit(export_command(*sys.argv[1:]))"


@pytest.fixture(scope="module")
def findings() -> Findings:
    return in_tensorflow(verified, WAYS)


@pytest.fixture(scope="module")
def adam_findings() -> Findings:
    return in_tensorflow(verified, ADAM_WAYS, "adam")


def failed(findings: list[tuple[bool, str]]) -> list[str]:
    return [text for passed, text in findings if not passed]


def test_a_right_export_passes_every_check_in_every_runtime(findings: Findings) -> None:
    texts = [text for _, text in findings["nothing"]]
    assert failed(findings["nothing"]) == []
    assert "all builtin (no Flex, no custom)" in texts[0]
    assert texts[1] == "signatures: infer, restore, save, train"
    for runtime in available_runtimes():
        said = [text for text in texts if text.startswith(runtime)]
        for what in ("initial weights", "`infer`", "loss", "all weights", "each weight's step", "batch of 1"):
            assert sum(what in text for text in said) == 1
        assert sum("bit for bit" in text for text in said) == 3


@pytest.mark.parametrize(
    ("way", "what"),
    [
        ("other weights", "`save` gives the initial weights"),
        ("relu gradient", "all weights after `train` not as in Keras"),
        ("bias gradient", "each weight's step"),
        ("dropout", "loss of `train` not as in Keras"),
    ],
)
def test_a_wrong_export_is_found_in_every_runtime(findings: Findings, way: str, what: str) -> None:
    for runtime in available_runtimes():
        said = [text for text in failed(findings[way]) if text.startswith(runtime)]
        assert any(what in text for text in said)


def test_a_large_learning_rate_is_no_fault_and_hides_none() -> None:
    """The step, with rounding's share of it, is a thousand times that of the default."""
    found = in_tensorflow(verified, ("nothing", "relu gradient"), rate=20.0)
    assert failed(found["nothing"]) == []
    for what in ("all weights after `train` not as in Keras", "each weight's step"):
        assert any(what in text for text in failed(found["relu gradient"]))


def test_a_right_export_with_adam_passes_every_check(adam_findings: Findings) -> None:
    assert failed(adam_findings["nothing"]) == []
    texts = [text for _, text in adam_findings["nothing"]]
    for what in ("each weight's gradient", "Adam's moments", "each weight's step"):
        assert sum(what in text for text in texts) == len(available_runtimes())


@pytest.mark.parametrize(
    ("way", "what"),
    [
        ("relu gradient", "each weight's gradient"),
        ("bias gradient", "each weight's gradient"),  # all of a tensor times 1.1: the step is as it was
        ("no bias correction", "each weight's step"),
        ("other epsilon", "each weight's step"),
        ("second moment", "Adam's moments not as in Keras"),
        ("steps uncounted", "Adam's moments not as in Keras"),
    ],
)
def test_a_wrong_export_with_adam_is_found(adam_findings: Findings, way: str, what: str) -> None:
    for runtime in available_runtimes():
        said = [text for text in failed(adam_findings[way]) if text.startswith(runtime)]
        assert any(what in text for text in said)


def test_tensors_are_compared_by_their_own_norms() -> None:
    """0.3 beside 5 is 0.06; a tensor that is nothing beside the others is held against 1e-5 of them."""
    expected = {"kernel": np.array([3.0, 4.0]), "bias": np.array([0.0])}
    seen = {"kernel": np.array([3.0, 4.3]), "bias": np.array([1e-6])}
    assert tensors_apart(seen, expected) == pytest.approx({"kernel": 0.06, "bias": 1e-6 / 5e-5})


def test_a_flex_file_is_not_even_run(findings: Findings) -> None:
    assert failed(findings["flex"]) == [
        "operators: 1 of 1 kinds, not builtin: ['CUSTOM:FlexMatrixInverse']",
        "signatures: serving_default",
    ]
    assert len(findings["flex"]) == 2


def run_export(way: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`fedfer export` of the tiny model in a process of its own, sabotaged in this way."""
    return subprocess.run(
        [sys.executable, "-c", COMMAND, way, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        check=False,
    )


def test_export_writes_nothing_when_a_check_fails(tmp_path: Path) -> None:
    done = run_export("flex", "--output", str(tmp_path / "model.tflite"))
    assert (done.returncode, list(tmp_path.iterdir())) == (1, [])
    assert "FAIL operators: 1 of 1 kinds" in done.stdout
    assert done.stderr.startswith("fedfer export: the exported file failed its check: ")
    assert "FlexMatrixInverse" in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_earlier_file_stays_when_a_check_fails(tmp_path: Path) -> None:
    output = tmp_path / "model.tflite"
    output.write_bytes(b"earlier")
    done = run_export("relu gradient", "--output", str(output))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "not as in Keras" in done.stderr
    assert list(tmp_path.iterdir()) == [output]
    assert output.read_bytes() == b"earlier"


def test_export_writes_what_passed_and_the_same_bytes_again(tmp_path: Path) -> None:
    """The second time over the first file, and into a folder that is not there yet."""
    first, second = tmp_path / "model.tflite", tmp_path / "new" / "model.tflite"
    for output in (first, second):
        done = run_export("nothing", "--output", str(output), "--learning-rate", "0.125")
        assert (done.returncode, done.stderr) == (0, "")
        assert "FAIL" not in done.stdout
        assert done.stdout.endswith(f"wrote {output}, {output.stat().st_size:,} bytes\n")
    assert first.read_bytes() == second.read_bytes()
    assert read_contract(first).training.learning_rate == 0.125
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["model.tflite", "model.tflite", "new"]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["momentum", "adam", "adamw"])
def test_the_whole_network_passes_with_optimizers_that_remember(tmp_path: Path, optimizer: str) -> None:
    """Where Adam's own steps differ from Keras's by a tenth of a tensor's, by rounding alone."""
    command = [sys.executable, "-m", "fedfer.cli.main", "export", "--optimizer", optimizer]
    output = tmp_path / "model.tflite"
    done = subprocess.run([*command, "--output", output], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "FAIL" not in done.stdout
