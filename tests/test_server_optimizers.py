"""FedAvgM, FedAdagrad, FedAdam, FedYogi: numbers by hand, and the paper's equations over several rounds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from average_helpers import SMALL, constant_weights, random_weights, write_checkpoint
from safetensors.numpy import load

from fedfer.aggregator.strategies.base import Aggregate
from fedfer.aggregator.strategies.registry import make_strategy
from fedfer.aggregator.update_reader import WeightedFile
from fedfer.export.checkpoint import Weights, checkpoint_bytes
from fedfer.model.errors import CheckpointError

ADAPTIVE = ("fedadagrad", "fedadam", "fedyogi")


def one_round(
    directory: Path, settings: dict[str, object], parent: Weights, sent: list[Weights], state: bytes | None
) -> Aggregate:
    """Updates with 1, 2, 3, ... examples."""
    files = [write_checkpoint(directory, weights) for weights in sent]
    updates = [WeightedFile(path.name, n, "d", path) for n, path in enumerate(files, 1)]
    kept = None
    if state is not None:
        kept = directory / "state"
        kept.write_bytes(state)
    return make_strategy(settings).aggregate(write_checkpoint(directory, parent), updates, kept, SMALL)


def scale_after(
    directory: Path, settings: dict[str, object], sent: float, parent: float, rounds: int
) -> list[float]:
    """The number in `scale` after each round, when devices always send parent + `sent`."""
    weights, state, seen = constant_weights(parent), None, []
    for _ in range(rounds):
        step = {name: np.asarray(w + np.float32(sent), np.float32) for name, w in weights.items()}
        aggregate = one_round(directory, settings, weights, [step], state)
        weights, state = aggregate.weights, aggregate.state
        seen.append(float(weights["scale"]))
    return seen


def test_momentum_by_hand(tmp_path: Path) -> None:
    """Steps of 4 with momentum 1/2: m = 4, 6, 7; half of each: 10 + 2 = 12, + 3 = 15, + 3.5 = 18.5."""
    settings: dict[str, object] = {"name": "fedavgm", "momentum": 0.5, "server_learning_rate": 0.5}
    assert scale_after(tmp_path, settings, 4.0, 10.0, 3) == [12.0, 15.0, 18.5]


def test_momentum_0_is_fedavg(tmp_path: Path) -> None:
    """(1 * 3 + 2 * 6) / 3 = 5"""
    sent = [constant_weights(3), constant_weights(6)]
    after = one_round(tmp_path, {"name": "fedavgm", "momentum": 0}, constant_weights(1), sent, None)
    assert float(after.weights["scale"]) == 5.0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Delta 3, tau 1 (v starts at 1), beta1 0, beta2 1/2, eta 1, parent 0: v, then 3 / (sqrt(v) + 1).
        ("fedadagrad", 3 / (np.sqrt(1 + 9) + 1)),
        ("fedadam", 3 / (np.sqrt(0.5 * 1 + 0.5 * 9) + 1)),
        ("fedyogi", 3 / (np.sqrt(1 + 0.5 * 9) + 1)),
    ],
)
def test_adaptive_first_step_by_hand(tmp_path: Path, name: str, expected: float) -> None:
    settings: dict[str, object] = {"name": name, "beta1": 0, "tau": 1, "server_learning_rate": 1}
    if name != "fedadagrad":
        settings["beta2"] = 0.5
    (after,) = scale_after(tmp_path, settings, 3.0, 0.0, 1)
    assert after == np.float32(expected)


def paper(name: str, rounds: list[list[Weights]], start: Weights, p: dict[str, Any]) -> Weights:
    """Algorithm 2 of Reddi et al. 2021 in plain float64; statistics are the mean."""
    x = {key: value.astype(np.float64) for key, value in start.items()}
    m = {key: np.zeros_like(value) for key, value in x.items()}
    v = {key: np.full_like(value, p["tau"] ** 2) for key, value in x.items()}
    for sent in rounds:
        total = sum(range(1, len(sent) + 1))
        for key in x:
            mean = (
                sum((n * w[key].astype(np.float64) for n, w in enumerate(sent, 1)), np.zeros(x[key].shape))
                / total
            )
            if key == "norm/variance":
                x[key] = mean
                continue
            delta = mean - x[key]
            m[key] = p["beta1"] * m[key] + (1 - p["beta1"]) * delta
            if name == "fedadagrad":
                v[key] = v[key] + delta**2
            elif name == "fedyogi":
                v[key] = v[key] - (1 - p["beta2"]) * delta**2 * np.sign(v[key] - delta**2)
            else:
                v[key] = p["beta2"] * v[key] + (1 - p["beta2"]) * delta**2
            x[key] = x[key] + p["server_learning_rate"] * m[key] / (np.sqrt(v[key]) + p["tau"])
    return {key: value.astype(np.float32) for key, value in x.items()}


@pytest.mark.parametrize("name", ADAPTIVE)
def test_against_the_paper_over_rounds(tmp_path: Path, name: str) -> None:
    numbers = {"beta1": 0.8, "beta2": 0.95, "tau": 0.01, "server_learning_rate": 0.1}
    settings = {k: v for k, v in numbers.items() if not (name == "fedadagrad" and k == "beta2")}
    rounds = [[random_weights(10 * r + k) for k in range(3)] for r in range(5)]
    weights, state = random_weights(99), None
    for sent in rounds:
        aggregate = one_round(tmp_path, {"name": name, **settings}, weights, sent, state)
        weights, state = aggregate.weights, aggregate.state
    for key, expected in paper(name, rounds, random_weights(99), numbers).items():
        np.testing.assert_allclose(weights[key], expected, rtol=2e-5, atol=1e-6)


def test_statistics_are_averaged_and_have_no_moments(tmp_path: Path) -> None:
    """(1 * 3 + 2 * 6) / 3 = 5, though the rate is tiny; no moment is kept of a statistic."""
    sent = [constant_weights(3), constant_weights(6)]
    settings: dict[str, object] = {"name": "fedadam", "server_learning_rate": 1e-6}
    after = one_round(tmp_path, settings, constant_weights(1), sent, None)
    assert after.weights["norm/variance"].tolist() == [5.0, 5.0, 5.0]
    assert after.state is not None
    assert sorted(load(after.state)) == ["m/dense/kernel", "m/scale", "v/dense/kernel", "v/scale"]


def test_numbers_beyond_float32_stay_finite(tmp_path: Path) -> None:
    settings: dict[str, object] = {"name": "fedavgm", "server_learning_rate": 1000}
    huge = one_round(tmp_path, settings, constant_weights(0), [constant_weights(3e38)], None)
    assert np.isfinite(huge.weights["scale"]).all()
    adam = one_round(tmp_path, {"name": "fedadam"}, constant_weights(0), [constant_weights(3e38)], None)
    again = one_round(tmp_path, {"name": "fedadam"}, adam.weights, [constant_weights(1)], adam.state)
    assert np.isfinite(again.weights["scale"]).all()


def test_state_is_checked(tmp_path: Path) -> None:
    sent, parent = [constant_weights(3)], constant_weights(1)
    adam = one_round(tmp_path, {"name": "fedadam"}, parent, sent, None)
    assert adam.state is not None
    with pytest.raises(CheckpointError, match="not the state of fedyogi") as mixed:
        one_round(tmp_path, {"name": "fedyogi"}, parent, sent, adam.state)
    assert mixed.value.code == "wrong_model"
    with pytest.raises(CheckpointError, match="cannot read the server optimizer's state"):
        one_round(tmp_path, {"name": "fedadam"}, parent, sent, adam.state[:-1])
    with pytest.raises(CheckpointError, match="not the state of fedadam"):
        one_round(tmp_path, {"name": "fedadam"}, parent, sent, checkpoint_bytes(parent, SMALL))
    damaged = bytearray(adam.state)
    damaged[-4:] = b"\x00\x00\xc0\x7f"  # NaN
    with pytest.raises(CheckpointError, match="not finite"):
        one_round(tmp_path, {"name": "fedadam"}, parent, sent, bytes(damaged))
