"""Twenty steps of SGD and of Adam in exported files against Keras: tflite-runtime, LiteRT's interpreter, and
LiteRT's CompiledModel. Dropout off, a new batch each step.

Weights agree to 1e-3 and losses to 1e-4 relative: the tiny model from random weights, the VGG after 60 steps
in Keras. (From random weights twenty steps of the VGG are chaotic, in Keras too: docs/log.md.)

The VGG is held against Keras in float64, and then against Keras in float32, which is farther from float64
than the files are: TensorFlow sums BatchNorm's 33,856 numbers a channel one after the other. What that
amounts to is printed; it bounds the learning rate (at 0.002 Keras's own losses are 2.5e-4 off). Single
gradients agree to 1e-3 of each tensor, so that one wrong by 1 % fails.
"""

from pathlib import Path

import numpy as np
import pytest
from exactness_runs import (
    COMPILED,
    GRADIENT_RATE,
    export_exactly,
    steps_in_keras,
    steps_on_phone,
    warmed_weights,
)
from prepared import call_isolated, in_tensorflow

from fedfer.export.check import tensors_apart, vector_difference
from fedfer.export.checkpoint import Weights
from fedfer.export.optimizer_settings import OPTIMIZERS
from fedfer.export.runtime import available_runtimes

Steps = tuple[Weights, list[float]]  # weights after them, and their losses
APIS = [*available_runtimes(), COMPILED]
WEIGHTS_TOLERANCE, LOSS_TOLERANCE = 1e-3, 1e-4
STEP_TOLERANCE = 5e-3  # of all that 20 steps add
GRADIENT_TOLERANCE = 1e-3  # of each tensor
BATCH_SIZE = 16


def losses_apart(losses: list[float], expected: list[float]) -> float:
    """The largest relative difference of a step's loss."""
    return max(abs(a - b) / abs(b) for a, b in zip(losses, expected, strict=True))


def steps(after: Weights, before: Weights) -> Weights:
    """What training added to the weights that have a gradient."""
    return {name: after[name] - before[name] for name in before if "moving_" not in name}


@pytest.mark.parametrize(("optimizer", "learning_rate"), [("sgd", 0.02), ("adam", 0.001)])
def test_20_steps_of_the_tiny_model(tmp_path: Path, optimizer: str, learning_rate: float) -> None:
    settings, model = OPTIMIZERS[optimizer], tmp_path / "model.tflite"
    in_tensorflow(export_exactly, model, "tiny", settings)
    before, after, losses = in_tensorflow(steps_in_keras, "tiny", settings, learning_rate, 8)
    for api in APIS:
        weights, observed = call_isolated(steps_on_phone, model, "tiny", api, learning_rate, 8)
        difference, apart = vector_difference(weights, after), losses_apart(observed, losses)
        print(f"{optimizer}, {api}: {difference:.1e}, losses {apart:.1e}")
        assert difference < WEIGHTS_TOLERANCE, api
        assert apart < LOSS_TOLERANCE, api
    assert vector_difference(after, before) > 0.05  # training moved the weights far more than that


@pytest.fixture(scope="module")
def warmed() -> Weights:
    return in_tensorflow(warmed_weights, BATCH_SIZE)


@pytest.mark.slow
def test_gradients_of_the_network(tmp_path: Path, warmed: Weights) -> None:
    settings, model = OPTIMIZERS["sgd"], tmp_path / "model.tflite"
    in_tensorflow(export_exactly, model, "vgg", settings)
    run = ("vgg", settings, GRADIENT_RATE, BATCH_SIZE, warmed)
    before, after, (loss,) = in_tensorflow(steps_in_keras, *run, precision="float64", num_steps=1)
    expected = steps(after, before)

    def judge(what: str, weights: Weights, observed: float) -> tuple[float, float]:
        apart = tensors_apart(steps(weights, before), expected)
        worst, off = max(apart, key=lambda name: apart[name]), abs(observed - loss) / loss
        print(
            f"{what}: {worst} {apart[worst]:.1e}, median {np.median([*apart.values()]):.1e}, loss {off:.1e}"
        )
        return apart[worst], off

    _, in_float32, (loss_in_float32,) = in_tensorflow(steps_in_keras, *run, num_steps=1)
    judge("Keras in float32", in_float32, loss_in_float32)
    for api in APIS:
        args = (model, "vgg", api, GRADIENT_RATE, BATCH_SIZE, warmed)
        weights, (observed,) = call_isolated(steps_on_phone, *args, num_steps=1)
        worst, off = judge(api, weights, observed)
        assert worst < GRADIENT_TOLERANCE, api
        assert off < 1e-6, api


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "learning_rate"), [("sgd", 1e-3), ("adam", 5e-6)])
def test_20_steps_of_the_network(
    tmp_path: Path, warmed: Weights, optimizer: str, learning_rate: float
) -> None:
    settings, model = OPTIMIZERS[optimizer], tmp_path / "model.tflite"
    in_tensorflow(export_exactly, model, "vgg", settings)
    run = ("vgg", settings, learning_rate, BATCH_SIZE, warmed)
    before, after, losses = in_tensorflow(steps_in_keras, *run, precision="float64")
    exact, usual = (after, losses), in_tensorflow(steps_in_keras, *run)[1:]

    def judge(what: str, seen: Steps, expected: Steps) -> tuple[float, float, float]:
        difference, apart = vector_difference(seen[0], expected[0]), losses_apart(seen[1], expected[1])
        step = vector_difference(steps(seen[0], before), steps(expected[0], before))
        print(f"{what}: weights {difference:.1e}, steps {step:.1e}, losses {apart:.1e}")
        return difference, step, apart

    print(f"{optimizer}: loss {np.mean(losses[:5]):.3f} to {np.mean(losses[-5:]):.3f}")
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    assert np.mean(losses[:5]) < 0.9 * np.log(7)  # no dead network, whose steps would be easy
    judge("Keras in float32 against float64", usual, exact)
    for api in APIS:
        observed = call_isolated(steps_on_phone, model, "vgg", api, learning_rate, BATCH_SIZE, warmed)
        difference, step, apart = judge(f"{api} against float64", observed, exact)
        assert difference < WEIGHTS_TOLERANCE, api
        assert step < STEP_TOLERANCE, api
        assert apart < LOSS_TOLERANCE, api
        difference, _, apart = judge(f"{api} against float32", observed, usual)
        assert difference < WEIGHTS_TOLERANCE, api
        assert apart < LOSS_TOLERANCE, api
