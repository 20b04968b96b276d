"""The engine that trains in TensorFlow, beside the file itself: step by step the same weights."""

import dataclasses
import re
import sys
from pathlib import Path

import numpy as np
import prepared
import pytest
from engine_runs import (
    NUM_STEPS,
    Case,
    Steps,
    export_cases,
    in_keras,
    open_after_tensorflow,
    open_by_keras,
    refusals,
    run_badly,
    take_steps,
)
from prepared import call_isolated, in_tensorflow

from fedfer.export.check import same_bits, vector_difference
from fedfer.export.contract import TrainingSettings
from fedfer.export.engines import EngineChoice
from fedfer.export.loss_settings import SQUARED, LossSettings
from fedfer.export.optimizer_settings import OPTIMIZERS, OptimizerSettings
from fedfer.model.errors import InterpreterError, UsageError

SGD = TrainingSettings(learning_rate=0.1)
ADAM = TrainingSettings(OPTIMIZERS["adam"], learning_rate=0.02)
EVERYTHING = TrainingSettings(
    OptimizerSettings("adamw", weight_decay=0.1, clip_norm=0.5, epsilon=1e-3),
    LossSettings(label_smoothing=0.1, class_weights=(1.0, 2.0, 0.5)),
    learning_rate=0.02,
    proximal=True,
)
CASES = {
    "sgd": Case(SGD),
    "momentum": Case(TrainingSettings(OPTIMIZERS["momentum"], learning_rate=0.05)),
    "adam": Case(ADAM),
    "fedprox": Case(dataclasses.replace(SGD, proximal=True), mu=0.7),
    "dropout": Case(SGD, "with_dropout"),
    "regressor": Case(TrainingSettings(loss=LossSettings(SQUARED), learning_rate=0.05), "regressor"),
    "frozen": Case(SGD, trainable="head"),
    "adamw, decay, clipping, smoothing, class weights, fedprox": Case(EVERYTHING, mu=0.3),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("engines")
    in_tensorflow(export_cases, folder, list(CASES.values()))
    return {name: folder / f"{number}.tflite" for number, name in enumerate(CASES)}


@pytest.fixture(scope="module")
def by_keras(files: dict[str, Path]) -> dict[str, Steps]:
    runs = [(files[name], in_keras(case), case) for name, case in CASES.items()]
    return dict(zip(CASES, in_tensorflow(take_steps, runs), strict=True))


@pytest.fixture(scope="module")
def by_phones(files: dict[str, Path]) -> dict[str, Steps]:
    runs = [(files[name], EngineChoice(), case) for name, case in CASES.items()]
    return dict(zip(CASES, call_isolated(take_steps, runs), strict=True))


def furthest(one: Steps, other: Steps, step: int) -> float:
    """Of all tensors, relative to the larger of the tensor and 0.1 a number."""
    distances = []
    for name, expected in other.weights[step].items():
        scale = max(float(np.linalg.norm(expected)), 0.1 * float(np.sqrt(expected.size)))
        distances.append(float(np.linalg.norm(one.weights[step][name] - expected)) / scale)
    return max(distances)


@pytest.mark.parametrize("name", CASES)
def test_every_step_is_that_of_the_file(
    by_keras: dict[str, Steps], by_phones: dict[str, Steps], name: str
) -> None:
    """Every tensor within 1e-4, BatchNorm's statistics included; loss, metric and predictions too; dropout's
    masks are the same, being a function of the seed."""
    keras, phone = by_keras[name], by_phones[name]
    assert keras.runtime == "tensorflow" != phone.runtime
    assert same_bits(keras.weights[0], phone.weights[0])
    assert max(furthest(keras, phone, step) for step in range(NUM_STEPS + 1)) < 1e-4
    np.testing.assert_allclose(keras.measures, phone.measures, rtol=1e-4)
    np.testing.assert_allclose(keras.predictions, phone.predictions, atol=1e-4)
    assert vector_difference(phone.weights[-1], phone.weights[0]) > 0.01  # they moved by far more


def test_the_cases_differ(by_keras: dict[str, Steps]) -> None:
    """A setting that did nothing would go unnoticed above."""
    ends = [steps.weights[-1] for name, steps in by_keras.items() if name != "frozen"]
    for i, one in enumerate(ends):
        assert all(vector_difference(one, other) > 1e-3 for other in ends[:i])


def test_restore_starts_clean_and_a_kept_state_goes_on(by_keras: dict[str, Steps]) -> None:
    """Whatever an optimizer remembers."""
    for steps in by_keras.values():
        assert same_bits(steps.again, steps.weights[-1])
        assert same_bits(steps.resumed, steps.weights[-1])


def test_a_process_repeats_another_bit_for_bit(files: dict[str, Path], by_keras: dict[str, Steps]) -> None:
    """Also when it computed something else before."""
    names = [*reversed(CASES)][:4]
    again = in_tensorflow(take_steps, [(files[name], in_keras(CASES[name]), CASES[name]) for name in names])
    for name, steps in zip(names, again, strict=True):
        assert same_bits(steps.again, by_keras[name].again)


REFUSED = {
    "with_dropout": "does not train as the served model does.*loss of `train` not as in Keras",
    "with_other_momentum": r"each weight's step \(most: bn/moving_",
    "with_other_decay": "does not train as the served model does",
    "of_another_shape": r"its weight d/kernel \[128, 3\] .* is conv/kernel .* in the file",
    "regressor": "`infer` not as in Keras",
    "missing": "engine_runs has no function missing",
    "build": "^nothing$",
}


@pytest.fixture(scope="module")
def said(files: dict[str, Path]) -> dict[str, str]:
    cases = [Case(SGD, function) for function in REFUSED]
    return dict(zip(REFUSED, in_tensorflow(refusals, files["sgd"], cases), strict=True))


@pytest.mark.parametrize("function", REFUSED)
def test_a_keras_model_that_is_not_the_served_one_is_refused(said: dict[str, str], function: str) -> None:
    assert re.search(REFUSED[function], said[function]), said[function]


def test_other_frozen_weights_are_refused(files: dict[str, Path]) -> None:
    [words] = in_tensorflow(refusals, files["frozen"], [Case(SGD, "with_other_weights")])
    assert "frozen numbers are not the" in words


def test_an_engine_is_chosen_with_what_it_needs() -> None:
    for choice in ({"name": "keras"}, {"keras_model": "a:b"}):
        with pytest.raises(UsageError, match="the engine keras needs the Keras model"):
            EngineChoice(**choice)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="engine 'jax'; expected one of tflite, keras"):
        EngineChoice("jax")  # type: ignore[arg-type]


def test_tensorflow_that_was_in_use_before_is_refused(files: dict[str, Path]) -> None:
    choice = in_keras(CASES["sgd"])
    with pytest.raises(InterpreterError, match="in use before the engine was made"):
        in_tensorflow(open_after_tensorflow, files["sgd"], choice)


def test_images_of_another_size_fail_as_in_an_interpreter(files: dict[str, Path]) -> None:
    choice = in_keras(CASES["sgd"])
    with pytest.raises(InterpreterError, match="tensorflow failed in `infer`"):
        in_tensorflow(run_badly, files["sgd"], choice)


def test_an_export_leaves_the_keras_model_that_the_engine_takes(tmp_path: Path) -> None:
    """With frozen layers, whatever function it came from."""
    command = [sys.executable, "-m", "fedfer.cli.main", "export", "engine_runs:with_dropout"]
    names = [f"--output={tmp_path / 'm.tflite'}", f"--save-keras={tmp_path / 'm.keras'}"]
    done = prepared.run([*command, *names, "--trainable=head"], cwd=Path(__file__).parent)
    assert (done.returncode, done.stderr) == (0, "")
    choice = EngineChoice("keras", keras_model=str(tmp_path / "m.keras"))
    [steps] = in_tensorflow(take_steps, [(tmp_path / "m.tflite", choice, Case(SGD))])
    assert steps.runtime == "tensorflow"
    wrong = prepared.run([*command, "--save-keras=m.h5"], cwd=tmp_path)
    assert wrong.stderr == (
        "fedfer export: --save-keras m.h5: expected a name that ends in .keras, as Keras has it\n"
    )


def test_words_that_come_twice_in_a_batch(tmp_path: Path) -> None:
    """TensorFlow gives an Embedding's gradient as rows, which Adam has to add up; a step is checked."""
    model = tmp_path / "m.tflite"
    command = [sys.executable, "-m", "fedfer.cli.main", "export", "whole_models:words", "--optimizer=adam"]
    done = prepared.run([*command, f"--output={model}"], cwd=Path(__file__).parent)
    assert (done.returncode, done.stderr) == (0, "")
    assert in_tensorflow(open_by_keras, model, "whole_models:words") == "tensorflow"
