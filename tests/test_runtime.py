"""The interpreter adapter over an exported file, in every installed runtime, each call in its own process."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tflite
from numpy.typing import NDArray
from prepared import call_isolated
from runtime_helpers import (
    infer,
    load,
    load_without_runtimes,
    losses_by_batch,
    restore_and_save,
    run_badly,
    train,
)

from fedfer.export.check import same_bits
from fedfer.export.checkpoint import Weights
from fedfer.export.contract import read_contract
from fedfer.export.runtime import RUNTIMES, available_runtimes
from fedfer.model.errors import InterpreterError, ModelFileError

in_every_runtime = pytest.mark.parametrize("runtime", available_runtimes())


def some_weights(path: Path, seed: int = 0) -> Weights:
    """Random weights in the model's shapes; variances are positive."""
    rng = np.random.default_rng(seed)
    drawn = {w.name: rng.normal(0, 0.1, w.shape).astype(np.float32) for w in read_contract(path).weights}
    return {name: np.abs(w) + np.float32(0.5) if "variance" in name else w for name, w in drawn.items()}


def test_both_runtimes_are_tested() -> None:
    """The development environment holds both; a skipped half would go unnoticed."""
    assert available_runtimes() == list(RUNTIMES)


@in_every_runtime
def test_infer_gives_probabilities_whatever_the_batch(tiny_tflite: Path, runtime: str) -> None:
    of_8, of_3, of_1 = call_isolated(infer, tiny_tflite, runtime, 8, 3, 1)
    assert of_8.shape == (8, 7)
    assert of_8.dtype == np.float32
    np.testing.assert_allclose(of_8.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(of_3, of_8[:3], atol=1e-6)
    np.testing.assert_allclose(of_1, of_8[:1], atol=1e-6)


@in_every_runtime
def test_loss_falls_over_20_steps_on_one_batch(tiny_tflite: Path, runtime: str) -> None:
    trained = call_isolated(train, tiny_tflite, runtime, steps=20, batch_size=14, seed=3)
    assert trained.losses[0] == pytest.approx(np.log(7), rel=0.5)
    assert max(trained.losses[-3:]) < 0.6 * trained.losses[0]


@in_every_runtime
def test_every_weight_moves_and_keeps_its_shape(tiny_tflite: Path, runtime: str) -> None:
    start = some_weights(tiny_tflite)
    trained = call_isolated(train, tiny_tflite, runtime, steps=1, batch_size=14, seed=3, start=start).weights
    shapes = {name: (weight.shape, weight.dtype) for name, weight in trained.items()}
    assert shapes == {w.name: (w.shape, np.dtype(np.float32)) for w in read_contract(tiny_tflite).weights}
    assert [name for name in start if np.array_equal(start[name], trained[name])] == []


@in_every_runtime
def test_learning_rate_0_moves_statistics_only(plain_tflite: Path, runtime: str) -> None:
    start = some_weights(plain_tflite)
    step = call_isolated(train, plain_tflite, runtime, steps=1, batch_size=4, seed=0, start=start, rate=0.0)
    moved = {name for name in start if not np.array_equal(start[name], step.weights[name])}
    assert moved == {w.name for w in read_contract(plain_tflite).weights if w.role == "statistic"}


@in_every_runtime
def test_last_smaller_batches_train_as_they_are(plain_tflite: Path, runtime: str) -> None:
    """One interpreter, batches of 5, 2, 1 and 5 again: each loss is that of a fresh interpreter."""
    together = call_isolated(losses_by_batch, plain_tflite, runtime, 5, 2, 1, 5)
    alone = [call_isolated(losses_by_batch, plain_tflite, runtime, size)[0] for size in (5, 2, 1)]
    assert together == [*alone, alone[0]]
    assert len(set(alone)) == 3


@in_every_runtime
def test_restore_then_save_gives_the_same_bits(tiny_tflite: Path, runtime: str) -> None:
    weights = some_weights(tiny_tflite)
    kernel = weights["dense1/kernel"]
    kernel[0, :4] = [-0.0, np.float32(1e-40), np.finfo(np.float32).max, np.finfo(np.float32).tiny]
    assert same_bits(call_isolated(restore_and_save, tiny_tflite, runtime, weights), weights)


@in_every_runtime
def test_training_goes_on_in_a_second_interpreter(tiny_tflite: Path, runtime: str) -> None:
    """2 steps, save, restore elsewhere, 1 step: the bits of 3 steps in one interpreter."""
    three = call_isolated(train, tiny_tflite, runtime, steps=3, batch_size=6, seed=9)
    two = call_isolated(train, tiny_tflite, runtime, steps=2, batch_size=6, seed=9)
    third = call_isolated(train, tiny_tflite, runtime, steps=1, batch_size=6, seed=9, start=two.weights)
    assert three.losses == two.losses + third.losses
    assert same_bits(three.weights, third.weights)


@in_every_runtime
def test_seed_decides_the_bits(tiny_tflite: Path, runtime: str) -> None:
    one, same, other = (
        call_isolated(train, tiny_tflite, runtime, steps=2, batch_size=6, seed=seed) for seed in (1, 1, 2)
    )
    assert same_bits(one.weights, same.weights)
    assert not same_bits(one.weights, other.weights)


def test_runtimes_agree(tiny_tflite: Path) -> None:
    """The same dropout masks and nearly the same numbers in every runtime."""
    first, *others = (
        call_isolated(train, tiny_tflite, runtime, steps=2, batch_size=6, seed=4)
        for runtime in available_runtimes()
    )
    for other in others:
        np.testing.assert_allclose(other.losses, first.losses, rtol=1e-4)


def test_missing_runtime_says_what_to_install(tiny_tflite: Path) -> None:
    with pytest.raises(InterpreterError, match=r"'torch' is not installed \(found: .*tflite-runtime"):
        call_isolated(load, tiny_tflite.read_bytes(), "torch")
    with pytest.raises(InterpreterError, match=r"found: none\); install tflite-runtime"):
        call_isolated(load_without_runtimes, tiny_tflite)


@in_every_runtime
def test_file_without_contract_is_refused(runtime: str) -> None:
    with pytest.raises(ModelFileError, match=r"not a \.tflite"):
        call_isolated(load, b"no model at all", runtime)


@in_every_runtime
def test_operator_that_no_runtime_has_is_refused(tiny_tflite: Path, runtime: str) -> None:
    """The contract is whole, the graph is not: every MUL is turned into one that nobody knows."""
    damaged = with_unknown_operator(tiny_tflite.read_bytes())
    with pytest.raises(InterpreterError, match=f"{runtime} (cannot load the model|failed in)"):
        call_isolated(load, damaged, runtime)


def with_unknown_operator(content: bytes) -> bytes:
    """The file with its MUL operator code overwritten in place."""
    changed = bytearray(content)
    model = tflite.Model.GetRootAs(changed, 0)
    codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
    (mul,) = (code for code in codes if code.BuiltinCode() == tflite.BuiltinOperator.MUL)
    field = mul._tab.Pos + mul._tab.Offset(10)  # builtin_code, the fourth field of OperatorCode
    changed[field : field + 4] = (1126).to_bytes(4, "little")
    return bytes(changed)


BAD_INPUTS: dict[str, tuple[str, dict[str, NDArray[np.float32]]]] = {
    "images of another size": ("infer", {"images": np.zeros((2, 40, 40, 1), np.float32)}),
    "another name": ("infer", {"pictures": np.zeros((2, 48, 48, 1), np.float32)}),
    "weights missing": ("restore", {"conv1/bias": np.zeros(4, np.float32)}),
}


@in_every_runtime
@pytest.mark.parametrize(("signature", "inputs"), BAD_INPUTS.values(), ids=BAD_INPUTS.keys())
def test_bad_inputs_are_named(
    tiny_tflite: Path, runtime: str, signature: str, inputs: dict[str, NDArray[np.float32]]
) -> None:
    with pytest.raises(InterpreterError, match=f"{runtime} failed in `{signature}`"):
        call_isolated(run_badly, tiny_tflite, runtime, signature, inputs)


@in_every_runtime
def test_what_a_runtime_says_of_itself_is_not_shown(tiny_tflite: Path, runtime: str) -> None:
    code = f"from runtime_helpers import *; load_and_tell(Path({str(tiny_tflite)!r}), {runtime!r})"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    expected = ["WARNING: of interest", "of Python", "ERROR: without an end", "INFO: after it"]
    assert done.stderr.splitlines() == expected
