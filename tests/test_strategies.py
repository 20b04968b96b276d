"""The interface of strategies: settings, FedAvg, FedProx, stale updates."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from average_helpers import SMALL, constant_weights, random_weights, write_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfer.aggregator.average import weighted_mean
from fedfer.aggregator.strategies.base import settings_of
from fedfer.aggregator.strategies.registry import STRATEGIES, make_strategy
from fedfer.aggregator.strategies.staleness import staleness_factor
from fedfer.aggregator.update_reader import WeightedFile
from fedfer.export.checkpoint import Weights, checkpoint_bytes
from fedfer.model.errors import UsageError


def update(
    directory: Path, weights: Weights, num_examples: int = 1, base: Path | None = None, staleness: int = 0
) -> WeightedFile:
    path = write_checkpoint(directory, weights)
    return WeightedFile(path.name, num_examples, "d", path, base, staleness)


@pytest.mark.parametrize(
    ("given_settings", "message"),
    [
        ({}, "strategy None is unknown; expected one of fedavg, fedprox"),
        ({"name": "fedmagic"}, "strategy 'fedmagic' is unknown"),
        ({"name": ["fedavg"]}, "strategy \\['fedavg'\\] is unknown"),
        ({"name": "fedavg", "mu": 1}, "strategy fedavg has no setting 'mu'; its settings: none"),
        ({"name": "fedprox", "mu": 1}, "fedprox has no setting 'mu'; its settings: proximal_mu"),
        ({"name": "fedprox", "proximal_mu": "1"}, "fedprox: proximal_mu is '1'; expected a number"),
        ({"name": "fedprox", "proximal_mu": True}, "proximal_mu is True; expected a number"),
        ({"name": "fedprox", "proximal_mu": float("nan")}, "proximal_mu is nan; expected a number"),
        ({"name": "fedprox", "proximal_mu": 10**400}, "proximal_mu is 1000.*; expected a number"),
        ({"name": "fedprox", "proximal_mu": -0.1}, "proximal_mu is -0.1; expected 0 to 1000"),
        ({"name": "fedadam", "beta2": 1}, "beta2 is 1.0; expected 0 or more, below 1"),
        ({"name": "fedyogi", "tau": 0}, "tau is 0.0; expected 1e-12 to 1"),
        ({"name": "fedavgm", "server_learning_rate": 0}, "server_learning_rate is 0.0; expected above 0"),
        ({"name": "fedadagrad", "beta2": 0.9}, "fedadagrad has no setting 'beta2'; its settings: server_l"),
        ({"name": "trimmed_mean", "trim_fraction": 0.5}, "trim_fraction is 0.5; expected 0 or more, below"),
        ({"name": "krum", "num_byzantine": 1.0}, "num_byzantine is 1.0; expected a whole number"),
        ({"name": "krum", "num_byzantine": -1}, "num_byzantine is -1; expected 0 to"),
        ({"name": "krum", "num_byzantine": None}, "num_byzantine is None; expected a whole number"),
        ({"name": "multi_krum", "num_selected": 0}, "num_selected is 0; expected 1 to"),
        ({"name": "norm_bounded", "max_norm": 0}, "max_norm is 0.0; expected a number above 0"),
    ],
)
def test_settings_are_taken_strictly(given_settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_strategy(given_settings)


def test_settings_there_and_back() -> None:
    assert settings_of(make_strategy({"name": "fedavg"})) == {"name": "fedavg"}
    fedprox = make_strategy({"name": "fedprox", "proximal_mu": 1})
    assert settings_of(fedprox) == {"name": "fedprox", "proximal_mu": 1.0}
    assert make_strategy(settings_of(fedprox)) == fedprox


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_by_its_name_alone(name: str) -> None:
    strategy = make_strategy({"name": name})
    assert strategy.name == name
    assert strategy.min_updates == (5 if "krum" in name else 1)
    written = json.loads(json.dumps(settings_of(strategy)))
    assert make_strategy(written) == strategy
    assert written["name"] == name


@pytest.mark.parametrize("name", STRATEGIES)
@given(order=st.permutations(range(5)), late=st.integers(0, 3))
@settings(max_examples=15)
def test_every_strategy_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, name: str, order: list[int], late: int
) -> None:
    """Bit for bit, weights and state; every tensor there, finite, float32; variances not negative."""
    directory, strategy = tmp_path_factory.mktemp("updates"), make_strategy({"name": name})
    parent, base = (write_checkpoint(directory, random_weights(i)) for i in (100, 101))
    updates = [update(directory, random_weights(i), i + 1, base, late * (i == 2)) for i in range(5)]
    first = strategy.aggregate(parent, updates, None, SMALL)
    again = strategy.aggregate(parent, [updates[i] for i in order], None, SMALL)
    assert checkpoint_bytes(first.weights, SMALL) == checkpoint_bytes(again.weights, SMALL)
    assert first.state == again.state
    assert {n: w.shape for n, w in first.weights.items()} == {w.name: w.shape for w in SMALL.weights}
    assert {str(w.dtype) for w in first.weights.values()} == {"float32"}
    assert all(np.isfinite(tensor).all() for tensor in first.weights.values())
    assert (first.weights["norm/variance"] >= 0).all()


@pytest.mark.parametrize("name", STRATEGIES)
def test_updates_that_say_nothing_new_change_nothing(tmp_path: Path, name: str) -> None:
    parent = write_checkpoint(tmp_path, random_weights(1))
    updates = [update(tmp_path, random_weights(1), n) for n in (1, 2, 3, 4, 5)]
    after = make_strategy({"name": name}).aggregate(parent, updates, None, SMALL).weights
    assert checkpoint_bytes(after, SMALL) == parent.read_bytes()


def test_fedprox_tells_devices_and_averages_as_fedavg(tmp_path: Path) -> None:
    fedavg, fedprox = make_strategy({"name": "fedavg"}), make_strategy({"name": "fedprox"})
    assert fedavg.client_settings() == {}
    assert fedprox.client_settings() == {"proximal_mu": 0.01}
    parent = write_checkpoint(tmp_path, random_weights(9))
    updates = [update(tmp_path, random_weights(i), i + 1) for i in range(3)]
    results = [s.aggregate(parent, updates, None, SMALL) for s in (fedavg, fedprox)]
    assert [r.state for r in results] == [None, None]
    first, second = (checkpoint_bytes(r.weights, SMALL) for r in results)
    assert first == second == checkpoint_bytes(weighted_mean(updates, SMALL), SMALL)


def test_staleness_factor() -> None:
    """1 / sqrt(1 + tau): 1, then 0.5 three versions late."""
    assert (staleness_factor(0), staleness_factor(3), staleness_factor(99)) == (1.0, 0.5, 0.1)
    with pytest.raises(UsageError, match="staleness is -1"):
        staleness_factor(-1)


def test_stale_update_moves_the_parent_by_its_own_step(tmp_path: Path) -> None:
    """Trained from 2 to 6, three versions late: half of its step of 4 on top of the parent's 10 is 12.
    Its statistic moves half the way from 10 to 6. With a fresh update of 20: (12 + 3 * 20) / 4 = 18."""
    parent = write_checkpoint(tmp_path, constant_weights(10))
    base = write_checkpoint(tmp_path, constant_weights(2))
    stale = update(tmp_path, constant_weights(6), 1, base, 3)
    alone = weighted_mean([stale], SMALL, parent)
    assert {n: np.unique(w).tolist() for n, w in alone.items()} == {
        "dense/kernel": [12.0],
        "norm/variance": [8.0],
        "scale": [12.0],
    }
    both = weighted_mean([stale, update(tmp_path, constant_weights(20), 3)], SMALL, parent)
    assert [float(both["scale"]), float(both["norm/variance"][0])] == [18.0, 17.0]


def test_stale_updates_need_what_they_are_measured_against(tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path, constant_weights(2))
    stale = update(tmp_path, constant_weights(6), 1, base, 3)
    with pytest.raises(UsageError, match="without the parent's checkpoint"):
        weighted_mean([stale], SMALL)
    for baseless in (
        update(tmp_path, constant_weights(6), 1, None, 3),
        update(tmp_path, constant_weights(7), 1, base, -1),
    ):
        with pytest.raises(UsageError, match="expected 0 or more, and a base"):
            weighted_mean([baseless], SMALL, base)


@given(order=st.permutations(range(4)), staleness=st.lists(st.integers(0, 5), min_size=4, max_size=4))
def test_stale_updates_in_any_order_and_no_variance_below_0(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], staleness: list[int]
) -> None:
    directory = tmp_path_factory.mktemp("updates")
    parent, base = (write_checkpoint(directory, random_weights(i)) for i in (100, 101))
    updates = [update(directory, random_weights(i), i + 1, base, staleness[i]) for i in range(4)]
    mean = weighted_mean(updates, SMALL, parent)
    assert (mean["norm/variance"] >= 0).all()
    again = weighted_mean([updates[i] for i in order], SMALL, parent)
    assert checkpoint_bytes(mean, SMALL) == checkpoint_bytes(again, SMALL)


def test_the_page_lists_every_strategy_and_default() -> None:
    page = (Path(__file__).parents[1] / "docs" / "strategies.md").read_text()
    table = page.split("| name | settings |")[1].split("\n\n")[0]
    listed = {
        name: {key: json.loads(value) for key, value in re.findall(r"`(\w+)` ([\w.]+)", cell)}
        for name, cell in re.findall(r"^\| `(\w+)` \|(.*?)\|", table, re.MULTILINE)
    }
    written = [settings_of(make_strategy({"name": name})) for name in STRATEGIES]
    assert listed == {str(w["name"]): {k: v for k, v in w.items() if k != "name"} for w in written}
