"""Optimizers in exported files, in every runtime, against Keras's own and against numbers by hand."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from optimizer_runs import (
    Case,
    can_resume,
    export_cases,
    train_in_keras,
    train_in_runtime,
    train_on,
    train_twice,
    without_state_signatures,
)
from prepared import call_isolated, in_tensorflow

from fedfer.export.check import same_bits, vector_difference
from fedfer.export.checkpoint import Weights
from fedfer.export.contract import read_contract
from fedfer.export.flatbuffer import signatures
from fedfer.export.optimizer_settings import OPTIMIZERS, OptimizerSettings, optimizer_faults
from fedfer.export.runtime import available_runtimes
from fedfer.model.errors import ModelFileError

SGD, ADAM = OPTIMIZERS["sgd"], OPTIMIZERS["adam"]
CASES = {
    "sgd": Case(SGD, 0.5),
    "momentum": Case(OPTIMIZERS["momentum"], 0.1),
    "nesterov": Case(OPTIMIZERS["nesterov"], 0.1),
    "adam": Case(ADAM, 0.05),
    "adam with other numbers": Case(OptimizerSettings("adam", beta_1=0.5, beta_2=0.9, epsilon=0.01), 0.05),
    "adamw": Case(OptimizerSettings("adamw", weight_decay=0.2), 0.05),
    "sgd, decayed": Case(dataclasses.replace(SGD, weight_decay=0.1), 0.5),
    "sgd, clipped": Case(dataclasses.replace(SGD, clip_norm=0.3), 0.5),
    "adamw, clipped": Case(OptimizerSettings("adamw", weight_decay=0.2, clip_norm=0.1), 0.05),
}
PROXIMAL = {
    "fedprox": Case(SGD, 0.5, proximal=True),
    "fedprox, momentum, clipped": Case(
        dataclasses.replace(OPTIMIZERS["momentum"], clip_norm=0.2), 0.1, proximal=True
    ),
}
ALL = {**CASES, **PROXIMAL}
in_every_runtime = pytest.mark.parametrize("runtime", available_runtimes())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("optimizers")
    in_tensorflow(export_cases, folder, list(ALL.values()))
    return {name: folder / f"{number}.tflite" for number, name in enumerate(ALL)}


@pytest.fixture(scope="module")
def in_keras() -> dict[str, tuple[Weights, list[float]]]:
    return dict(zip(CASES, in_tensorflow(train_in_keras, list(CASES.values())), strict=True))


@in_every_runtime
@pytest.mark.parametrize("name", CASES)
def test_20_steps_are_keras(
    files: dict[str, Path], in_keras: dict[str, tuple[Weights, list[float]]], runtime: str, name: str
) -> None:
    """With dropout off and nothing that is nearly a tie: 1e-5 relative, also for Adam."""
    weights, losses = call_isolated(train_in_runtime, files[name], runtime, CASES[name].learning_rate)
    expected, expected_losses = in_keras[name]
    for tensor in expected:
        assert vector_difference({"": weights[tensor]}, {"": expected[tensor]}) < 1e-5, tensor
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    start = call_isolated(train_in_runtime, files[name], runtime, 0.0, num_steps=0)[0]
    assert vector_difference(start, expected) > 0.02  # 20 steps moved far more than that


def test_the_cases_differ(in_keras: dict[str, tuple[Weights, list[float]]]) -> None:
    """An option that did nothing would go unnoticed above."""
    ends = [weights for weights, _ in in_keras.values()]
    for i, one in enumerate(ends):
        assert all(vector_difference(one, other) > 1e-3 for other in ends[:i])


@in_every_runtime
@pytest.mark.parametrize("name", ["momentum", "adamw", "fedprox", "fedprox, momentum, clipped"])
def test_restore_starts_clean(files: dict[str, Path], runtime: str, name: str) -> None:
    """Three steps after `restore` give the bits of the first three: no slot of theirs is left."""
    mu = 0.5 if ALL[name].proximal else 0.0
    first, once, again = call_isolated(train_twice, files[name], runtime, 0.1, mu)
    assert same_bits(once, again)
    assert not same_bits(first, once)


@in_every_runtime
@pytest.mark.parametrize("name", ALL)
def test_training_goes_on_where_it_was(files: dict[str, Path], runtime: str, name: str) -> None:
    """In another interpreter, bit for bit, slots, steps counted and FedProx's anchor included."""
    mu = 0.5 if ALL[name].proximal else 0.0
    state, whole, resumed = call_isolated(train_on, files[name], runtime, 0.1, mu)
    assert same_bits(whole, resumed)
    contract = read_contract(files[name])
    assert {tensor: values.shape for tensor, values in state.items()} == contract.state_shapes
    if "num_steps:" in state:
        assert state["num_steps:"] == 3
    assert all(np.abs(values).max() > 0 for values in state.values())


def test_files_say_what_they_can_keep(files: dict[str, Path]) -> None:
    """Plain SGD needs no more than `save` and `restore`; slots are named after what they belong to."""
    names = ["hidden/bias", "hidden/kernel", "last/bias", "last/kernel"]
    kept = {name: sorted(read_contract(files[name]).optimizer_state) for name in ("sgd", "momentum", "adam")}
    assert kept["sgd"] == []
    assert kept["momentum"] == [f"slot0:{name}" for name in names]
    assert kept["adam"] == ["num_steps:", *(f"slot{i}:{name}" for i in (0, 1) for name in names)]
    for name, path in files.items():
        held = {signature.name for signature in signatures(path.read_bytes())}
        assert held == set(read_contract(path).signatures)
        assert ("save_state" in held) == (name not in ("sgd", "sgd, decayed", "sgd, clipped"))


@in_every_runtime
def test_a_file_from_before_cannot_resume(files: dict[str, Path], runtime: str, tmp_path: Path) -> None:
    older = tmp_path / "older.tflite"
    call_isolated(without_state_signatures, files["adam"], older)
    assert read_contract(older) == read_contract(files["adam"])
    assert not call_isolated(can_resume, older, runtime)
    assert call_isolated(can_resume, files["adam"], runtime)


def test_slots_are_neither_saved_nor_stored(files: dict[str, Path]) -> None:
    plain, adam = (files[name] for name in ("sgd", "adam"))
    assert read_contract(plain).weights == read_contract(adam).weights
    (save,) = (s for s in signatures(adam.read_bytes()) if s.name == "save")
    assert {tensor.name for tensor in save.outputs} == {w.name for w in read_contract(adam).weights}


@in_every_runtime
def test_proximal_term_by_hand(files: dict[str, Path], runtime: str) -> None:
    """Two steps of SGD: the first starts at the anchor, where the term is 0; the second is that without the
    term less rate * mu * (w1 - w0)."""
    path, rate, mu = files["fedprox"], 0.5, 0.3
    start = call_isolated(train_in_runtime, path, runtime, rate, mu, num_steps=0)[0]
    one = call_isolated(train_in_runtime, path, runtime, rate, mu, num_steps=1)[0]
    one_without = call_isolated(train_in_runtime, path, runtime, rate, 0.0, num_steps=1)[0]
    two = call_isolated(train_in_runtime, path, runtime, rate, mu, num_steps=2)[0]
    two_without = call_isolated(train_in_runtime, path, runtime, rate, 0.0, num_steps=2)[0]
    assert same_bits(one, one_without)
    for name in start:
        expected = two_without[name] - rate * mu * (one[name] - start[name])
        np.testing.assert_allclose(two[name], expected, atol=1e-6)
        assert np.abs(two[name] - two_without[name]).max() > 1e-3


@in_every_runtime
def test_mu_0_is_the_file_without_the_term(files: dict[str, Path], runtime: str) -> None:
    with_input = call_isolated(train_in_runtime, files["fedprox"], runtime, 0.5, 0.0)[0]
    without = call_isolated(train_in_runtime, files["sgd"], runtime, 0.5)[0]
    assert vector_difference(with_input, without) < 1e-6


def test_a_file_without_the_term_refuses_mu(files: dict[str, Path]) -> None:
    with pytest.raises(ModelFileError, match=r"proximal_mu is 0\.1.*export it with --proximal"):
        call_isolated(train_in_runtime, files["sgd"], "auto", 0.5, 0.1)
    train = {s.name: s for s in signatures(files["fedprox"].read_bytes())}["train"]
    assert [t.name for t in train.inputs] == sorted(read_contract(files["fedprox"]).train_inputs)
    assert "proximal_mu" in {t.name for t in train.inputs}


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        (OptimizerSettings("rmsprop"), "optimizer is not one of sgd, adam, adamw"),  # type: ignore[arg-type]
        (OptimizerSettings(momentum=1.0), "momentum is not at least 0 and below 1"),
        (OptimizerSettings(momentum=float("nan")), "momentum is not at least 0 and below 1"),
        (OptimizerSettings(nesterov=True), "nesterov is not true or false, or true without momentum"),
        (OptimizerSettings("adam", momentum=0.9), "momentum is for sgd"),
        (OptimizerSettings("adam", epsilon=0.0), "epsilon is not above 0"),
        (OptimizerSettings(weight_decay=-0.1), "weight_decay is not at least 0 and below 1"),
        (OptimizerSettings(clip_norm=0.0), "clip_norm is not above 0"),
        (OptimizerSettings(clip_norm=float("inf")), "clip_norm is not above 0"),
    ],
)
def test_settings_that_cannot_be(settings: OptimizerSettings, fault: str) -> None:
    assert next(optimizer_faults(settings)) == fault


def test_settings_in_words() -> None:
    assert [next(optimizer_faults(settings), None) for settings in OPTIMIZERS.values()] == [None] * 5
    assert str(dataclasses.replace(OPTIMIZERS["nesterov"], clip_norm=1.0)) == (
        "sgd, momentum 0.9 (Nesterov), gradients clipped to norm 1"
    )
    assert str(OPTIMIZERS["adamw"]) == "adamw, betas 0.9 and 0.999, epsilon 1e-07, weight decay 0.004"
