"""Simulations in which everything breaks, in real processes over real sockets: the same model in the end, and
every refusal counted with its code."""

import os
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from test_simulate import command, same, simulate

from fedfer.android_stub.simulation.dying import killing_of

CALM = """
name = "flaky"
[model]
path = "model.tflite"
[data]
take = 32
source = "drawn"
[partition]
scheme = "iid"
num_devices = 4
[run]
num_rounds = 4
[run.rounds]
num_clients = 4
over_selection = 1.0
local_epochs = 3
batch_size = 4
learning_rate = 0.05
deadline_sec = 3600.0
"""
FAULTS = """
[faults]
kill = 0.4
cut_upload = 0.5
repeat_upload = 0.4
stale_upload = 0.4
wrong_model = 0.4
nan = 0.4
delay = 0.5
delay_sec = 100.0
clock_offset_sec = 1e6
aggregator_kill_at_sec = [1.0, 50.0]
network_down = [[1.0, 30.0]]
"""
CODES = {"stale_upload": "wrong_base", "wrong_model": "wrong_model", "nan": "not_finite"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_tflite: Path) -> Path:
    found = tmp_path_factory.mktemp("flaky")
    (found / "model.tflite").write_bytes(tiny_tflite.read_bytes())
    (found / "calm.toml").write_text(CALM)
    (found / "flaky.toml").write_text(CALM + FAULTS)
    return found


@pytest.fixture(scope="module")
def calm(folder: Path) -> dict[str, Any]:
    """The record of a run in which nothing breaks."""
    return simulate(folder / "calm.toml", "calm", "--processes=1")


@pytest.fixture(scope="module")
def flaky(folder: Path) -> dict[str, Any]:
    return simulate(folder / "flaky.toml", "flaky", "--processes=2")


def test_a_flaky_run_ends_with_the_model_of_a_calm_one(
    folder: Path, calm: dict[str, Any], flaky: dict[str, Any]
) -> None:
    """Every device's update counts in every round: what breaks may cost time and bytes, and nothing else."""
    assert flaky["final"]["weights"] == calm["final"]["weights"]
    assert [done["weights"] for done in flaky["rounds"]] == [done["weights"] for done in calm["rounds"]]
    assert (calm["faults"], calm["refusals"]) == ([], {})
    seen = Counter(fault["kind"] for fault in flaky["faults"])
    assert set(seen) == {
        "killed",
        "cut_upload",
        "repeat_upload",
        "delay",
        "aggregator_killed",
        "network_down",
        *CODES,
    }
    assert (seen["aggregator_killed"], seen["network_down"]) == (2, 1)
    assert flaky["refusals"] == {code: seen[kind] for kind, code in CODES.items()}
    assert sum(device["num_rejected"] for device in flaky["devices"]) == sum(flaky["refusals"].values())
    assert all(device["num_accepted"] == 4 for device in flaky["devices"])
    size = flaky["model"]["checkpoint_bytes"]
    extra = seen["repeat_upload"] + sum(seen[kind] for kind in CODES)
    sent = sum(device["sent_bytes"] for device in flaky["devices"])
    # A checkpoint of another model differs in a few bytes of its header, if at all.
    assert sent == pytest.approx((16 + extra) * size, abs=64 * seen["wrong_model"])
    assert flaky["virtual_sec"] > calm["virtual_sec"]
    assert list((folder / "flaky" / "work" / "updates").iterdir()) == []


def test_a_flaky_simulation_that_was_killed_goes_on(folder: Path, flaky: dict[str, Any]) -> None:
    """With other numbers of processes: the same faults, the same record."""
    process = subprocess.Popen(
        command(folder / "flaky.toml", f"--output={folder / 'broken'}", "--processes=1"),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("round 2"):
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    again = simulate(folder / "flaky.toml", "broken", "--processes=3")
    assert same(again) == same(flaky)


def test_attackers_attack(folder: Path, calm: dict[str, Any]) -> None:
    """Half of the devices turn their updates: other weights; with NaN, refusals and no update of theirs."""
    flipped = simulate(
        folder / "calm.toml", "flipped", "--rounds=1", "--set", 'attack={kind="sign_flip", share=0.5}'
    )
    assert Counter(device["attack"] for device in flipped["devices"]) == {None: 2, "sign_flip": 2}
    assert flipped["rounds"][0]["weights"] == calm["rounds"][0]["weights"]
    assert flipped["rounds"][1]["weights"] != calm["rounds"][1]["weights"]
    assert all(device["num_accepted"] == 1 for device in flipped["devices"])
    nans = simulate(
        folder / "calm.toml",
        "nans",
        "--rounds=1",
        "--set",
        'attack={kind="nan", share=0.5}',
        "--set",
        "run.rounds.min_clients=2",
        "--set",
        "run.rounds.deadline_sec=60.0",
    )
    assert {device["num_accepted"] for device in nans["devices"] if device["attack"] is None} == {1}
    assert {device["num_accepted"] for device in nans["devices"] if device["attack"] == "nan"} == {0}
    assert set(nans["refusals"]) == {"not_finite"}


@pytest.mark.parametrize(
    ("share", "num_steps", "after_step"),
    [(0.0, 10, 1), (0.5, 10, 5), (0.99, 10, 9), (0.7, 2, 1), (0.7, 1, 1)],
)
def test_where_a_task_is_killed(share: float, num_steps: int, after_step: int) -> None:
    assert killing_of(share, num_steps, Path("p")).after_step == after_step
