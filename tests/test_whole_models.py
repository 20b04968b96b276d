"""Whole networks by `fedfer export`: it checks one step and `infer` against Keras in every runtime."""

import sys
from pathlib import Path

import prepared
import pytest
from static_shapes import computed_shapes

from fedfer.export.contract import Contract, read_contract
from fedfer.export.flatbuffer import is_builtin_only, op_census, signatures
from fedfer.export.loss_settings import BINARY, SPARSE, SQUARED, TargetSpec
from fedfer.export.runtime import available_runtimes


def exported(source: str, path: Path, *options: str) -> Contract:
    """Exports in this folder, so that `whole_models:function` is found."""
    command = [sys.executable, "-m", "fedfer.cli.main", "export", source, "--output", str(path), *options]
    done = prepared.run(command, cwd=Path(__file__).parent)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    for runtime in available_runtimes():
        for what in ("loss of `train` as in Keras", "each weight's step", "a batch of 1 trains as it is"):
            assert sum(what in line for line in done.stdout.splitlines() if f"ok   {runtime}" in line) == 1
    content = path.read_bytes()
    assert is_builtin_only(op_census(content))
    assert computed_shapes(content) == []
    return read_contract(path)


def inputs_of(path: Path, signature: str) -> dict[str, tuple[tuple[int, ...], str]]:
    (found,) = (s for s in signatures(path.read_bytes()) if s.name == signature)
    return {tensor.name: (tensor.shape, tensor.dtype) for tensor in found.inputs}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.tflite"


def test_the_mnist_network_of_federated_averaging(path: Path) -> None:
    contract = exported("fedfer.model.mnist:fedavg_cnn", path)
    assert contract.num_parameters == 1_663_370
    assert (contract.image_shape, contract.num_outputs) == ((28, 28, 1), 10)


def test_the_perceptron_of_the_same_paper(path: Path) -> None:
    assert exported("fedfer.model.mnist:fedavg_2nn", path).num_parameters == 199_210


def test_a_small_resnet(path: Path) -> None:
    assert exported("whole_models:resnet10", path).training.loss.name == SPARSE


@pytest.mark.slow
def test_a_resnet_of_18_layers(path: Path) -> None:
    exported("whole_models:resnet18", path)


def test_a_mobilenet_that_ends_in_logits(path: Path) -> None:
    training = exported("whole_models:mobilenet", path).training
    assert (training.loss.from_logits, training.optimizer.momentum) == (True, 0.9)


def test_newer_layers_and_a_yes_or_no_answer(path: Path) -> None:
    contract = exported("whole_models:modern", path)
    assert (contract.training.loss.name, contract.training.loss.label_smoothing) == (BINARY, 0.1)
    assert (contract.num_outputs, contract.labels) == (1, ("0", "1"))
    assert inputs_of(path, "train")["labels"] == ((-1,), "int32")


def test_an_lstm_over_measurements(path: Path) -> None:
    assert exported("whole_models:sequences", path).image_shape == (12, 3)
    assert inputs_of(path, "infer") == {"images": ((-1, 12, 3), "float32")}


def test_an_lstm_over_words(path: Path) -> None:
    """Numbers of words travel as float32 and are not divided."""
    contract = exported("whole_models:words", path)
    assert (contract.image_shape, contract.pixel_divisor) == ((10,), 1.0)


def test_words_by_adam_and_clipped(path: Path) -> None:
    """Some words come more than once in a batch: their rows' gradients are added up, then squared."""
    contract = exported("whole_models:words", path, "--optimizer", "adam", "--clip-norm", "0.01")
    assert contract.training.optimizer.clip_norm == 0.01


def test_a_transformer(path: Path) -> None:
    exported("whole_models:transformer", path)


def test_adapted_statistics_and_a_layer_of_its_own(path: Path) -> None:
    """What a Normalization learned before is a constant of the file."""
    contract = exported("whole_models:adapted", path)
    assert [weight.name for weight in contract.weights if "normalization" in weight.name] == []
    assert [weight.shape for weight in contract.weights] == [(4, 6), (6,), (6,), (6, 3), (3,)]


def test_regressors(path: Path) -> None:
    for source, outputs in (("whole_models:regressor", 3), ("whole_models:table", 1)):
        contract = exported(source, path)
        assert contract.training.loss.name == SQUARED
        assert contract.target == TargetSpec("targets", "float32", (outputs,))
        assert inputs_of(path, "train")["targets"] == ((-1, outputs), "float32")
