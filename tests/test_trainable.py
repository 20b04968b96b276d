"""Files of which only some layers train, the others being constants; files of float16 weights."""

from pathlib import Path

import numpy as np
import pytest
from prepared import call_isolated, in_tensorflow
from runtime_helpers import restore_and_save, train
from trainable_runs import (
    BATCH_SIZE,
    NUM_STEPS,
    RATE,
    chosen_layers,
    chosen_when_frozen,
    export_and_start,
    export_part,
    heads,
    names_by_function_and_file,
    train_in_keras,
)

from fedfer.export.check import same_bits, vector_difference
from fedfer.export.contract import read_contract
from fedfer.export.flatbuffer import op_census, signatures
from fedfer.export.runtime import available_runtimes

in_every_runtime = pytest.mark.parametrize("runtime", available_runtimes())
HEAD = ["dense1/bias", "dense1/kernel", "probabilities/bias", "probabilities/kernel"]
UPPER = "bn2,dense*,probabilities"  # a BatchNorm that trains behind one that is frozen


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("trainable")
    made = {"head": ("head", False, False), "upper": (UPPER, False, False), "half": ("all", True, False)}
    made |= {"other body": ("head", False, True), "half head": ("head", True, False)}
    for name, (trainable, half, changed) in made.items():
        in_tensorflow(export_part, folder / name, trainable, half, changed)
    return {name: folder / name for name in made}


def test_layers_by_name() -> None:
    """Also of a model inside the model, which stands for what is in it."""
    unknown = "no layer with weights to train is 'e'; the model's: a, b, c, d; models inside it: body"
    assert in_tensorflow(chosen_layers, ["all", "head", "c", "[bd]", "a,d", "body", "bo*,d", "e"]) == [
        ["a", "b", "c", "d"],
        ["c", "d"],
        ["c"],
        ["b", "d"],
        ["a", "d"],
        ["a", "b"],
        ["a", "b", "d"],
        [unknown],
    ]


def test_layers_that_came_frozen_stay_so() -> None:
    assert in_tensorflow(chosen_when_frozen) == (
        "nothing of the model would train: the layers that are 'bo*' are frozen (a, b): set their `trainable`"
    )


def test_weights_are_called_by_their_places(tmp_path: Path) -> None:
    """So that a model's file, and `--engine keras` by it, fits what was exported by function; and that models
    inside a model may call their layers the same."""
    by_function, by_file = in_tensorflow(names_by_function_and_file, tmp_path / "m.keras")
    assert by_function == by_file
    assert len(set(by_function)) == len(by_function)
    assert by_function[:6:2] == ["same/kernel", "unready/same/kernel", "ready/same/kernel"]
    assert by_function[6:9] == ["each/inner/kernel", "each/inner/bias", "both/forward_lstm/lstm_cell/kernel"]


def test_a_head_comes_after_something() -> None:
    """Of a recurrent network what follows the last cells; a perceptron has none."""
    words, table = in_tensorflow(heads)
    assert words == "words/dense/kernel words/dense/bias"
    assert table.startswith(
        "the model has no convolution, recurrent layer, flattening or global pooling that"
    )


@in_every_runtime
@pytest.mark.parametrize(("name", "trainable"), [("head", "head"), ("upper", UPPER)])
def test_a_part_trains_as_in_keras(files: dict[str, Path], runtime: str, name: str, trainable: str) -> None:
    """Weights that travel come out as Keras's with the other layers frozen, which it leaves as they were."""
    before, after = in_tensorflow(train_in_keras, trainable)
    observed = call_isolated(
        train, files[name], runtime, steps=NUM_STEPS, batch_size=BATCH_SIZE, seed=0, rate=RATE
    ).weights
    assert all(np.array_equal(before[tensor], after[tensor]) for tensor in after if tensor not in observed)
    assert vector_difference(observed, {tensor: after[tensor] for tensor in observed}) < 1e-5
    for tensor in observed:
        assert not np.array_equal(observed[tensor], before[tensor])


def test_only_what_trains_travels(files: dict[str, Path]) -> None:
    contract = read_contract(files["head"])
    assert sorted(weight.name for weight in contract.weights) == HEAD
    assert contract.num_parameters + contract.num_frozen == 16_007
    (save,) = (s for s in signatures(files["head"].read_bytes()) if s.name == "save")
    assert [tensor.name for tensor in save.outputs] == HEAD
    upper = {weight.name for weight in read_contract(files["upper"]).weights}
    assert upper == {*HEAD, "bn2/gamma", "bn2/beta", "bn2/moving_mean", "bn2/moving_variance"}


def test_frozen_convolutions_are_convolutions_of_constants(files: dict[str, Path]) -> None:
    """Two for `train`, two for `infer`; nothing of their gradients."""
    assert op_census(files["head"].read_bytes())["CONV_2D"] == 4
    assert "DEPTH_TO_SPACE" not in op_census(files["head"].read_bytes())


def test_another_body_is_another_model(files: dict[str, Path]) -> None:
    """Heads of different bodies must not be averaged: the contract names what is frozen."""
    one, other = (read_contract(files[name]) for name in ("head", "other body"))
    assert one.weights == other.weights
    assert one.frozen_weights != other.frozen_weights
    assert one.digest != other.digest


@in_every_runtime
def test_float16_weights_train_in_float32(files: dict[str, Path], runtime: str) -> None:
    """Half the bytes a weight; `save` gives exactly the rounded numbers, and training is not rounded."""
    one = call_isolated(train, files["half"], runtime, steps=0, batch_size=1, seed=0).weights
    two = call_isolated(train, files["half"], runtime, steps=1, batch_size=6, seed=0).weights
    kernel = one["dense1/kernel"]
    assert np.array_equal(kernel, kernel.astype(np.float16).astype(np.float32))
    assert not np.array_equal(two["dense1/kernel"], two["dense1/kernel"].astype(np.float16))
    assert same_bits(call_isolated(restore_and_save, files["half"], runtime, two), two)


def test_float16_halves_the_large_weights(files: dict[str, Path], plain_tflite: Path) -> None:
    """dense1/kernel, the only long one, has 15,488 numbers."""
    saved = plain_tflite.stat().st_size - files["half"].stat().st_size
    assert saved == pytest.approx(15_488 * 2, rel=0.05)
    assert op_census(files["half"].read_bytes())["DEQUANTIZE"] == 1
    assert op_census(files["half head"].read_bytes())["DEQUANTIZE"] == 1


def test_starting_from_checkpoints(tmp_path: Path) -> None:
    """Of the whole (all 1) and of its head (all 2); the head alone does not say what the body is."""
    both, whole, head = in_tensorflow(export_and_start, tmp_path)
    assert both.split() == ["1"] * 12 + ["2"] * 4
    assert set(whole.split()) == {"1"}
    assert head == (
        "12 of 16 tensors are in no checkpoint given, conv1/kernel for one; give the checkpoint that holds "
        "them first"
    )
