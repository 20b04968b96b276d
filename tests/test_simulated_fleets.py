"""Profiles and traces in whole simulations: devices work when they are there, and at their own speed."""

import json
import sys
from pathlib import Path
from typing import Any

import prepared
import pytest

SCENARIO = """
name = "night"
{more}
[model]
path = "model.tflite"
memory_mb = 100
[data]
source = "drawn"
take = 60
[partition]
scheme = "power"
num_devices = 6
[run]
num_rounds = 2
[run.rounds]
num_clients = 2
min_clients = 2
local_epochs = 1
batch_size = 4
learning_rate = 0.05
deadline_sec = 1000000.0
"""
NIGHT = """
[[profiles]]
name = "night"
examples_per_sec = 0.01
availability = {daily = [["02:00", "02:30"]]}
[[profiles]]
name = "small"
memory_mb = 99
[[profiles]]
name = "always"
share = 2
examples_per_sec = 0.1
"""
TRACE = """device,start_sec,end_sec,idle,charging,unmetered,down_bytes_per_sec,up_bytes_per_sec
a,100,200,1,1,1,1000000000,1000000000
a,0,100,1,1,0,1,1
b,300,1000,1,1,1,1000000000,1000000000
"""


def simulate(folder: Path, tiny_tflite: Path, more: str, tables: str = "", *options: str) -> dict[str, Any]:
    (folder / "model.tflite").write_bytes(tiny_tflite.read_bytes())
    (folder / "scenario.toml").write_text(SCENARIO.format(more=more) + tables)
    command = [sys.executable, "-m", "fedfer.cli.main", "simulate", str(folder / "scenario.toml")]
    done = prepared.run([*command, f"--output={folder / 'out'}", *options])
    assert done.returncode == 0, done.stdout + done.stderr
    record: dict[str, Any] = json.loads((folder / "out" / "record.json").read_text())
    return record


@pytest.fixture(scope="module")
def night(tiny_tflite: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return simulate(tmp_path_factory.mktemp("night"), tiny_tflite, "seed = 5", NIGHT)


def test_kinds_of_devices_take_part_as_they_can(night: dict[str, Any]) -> None:
    kinds = {device["name"]: device["profile"]["name"] for device in night["devices"]}
    assert set(kinds.values()) == {"night", "small", "always"}
    tasks = dict.fromkeys(kinds.values(), 0)
    for device in night["devices"]:
        tasks[device["profile"]["name"]] += device["num_tasks"]
    assert tasks["small"] == 0  # its app may not take what a task needs
    assert tasks["always"] > 0


def test_a_round_waits_for_those_only_that_can_be_there_together(tiny_tflite: Path, tmp_path: Path) -> None:
    """Nobody is there with all others, some never take part: without that no round after an hour began."""
    apart = "\n".join(
        f'[[profiles]]\nexamples_per_sec = 0.1\navailability = {{daily = [["{hour}:00", "{hour}:30"]]}}'
        for hour in ("02", "05", "08")
    )
    small = "\n[[profiles]]\nmemory_mb = 99\n"
    one = ("--set=run.rounds.num_clients=1", "--set=run.rounds.min_clients=1")
    record = simulate(tmp_path, tiny_tflite, "seed = 5", apart + small, *one)
    hours = [device["profile"]["availability"]["num_windows"] for device in record["devices"]]
    assert len(hours) == 6
    assert record["virtual_sec"] > 2 * 3600
    assert [len(done["updates"]) for done in record["rounds"]] == [0, 1, 1]


def test_training_takes_the_profile_s_time(night: dict[str, Any]) -> None:
    speeds = {device["name"]: device["profile"]["examples_per_sec"] for device in night["devices"]}
    updates = [update for done in night["rounds"] for update in done["updates"]]
    assert len(updates) == 4
    for update in updates:
        assert update["train_sec"] == pytest.approx(
            update["num_examples"] / speeds[update["device"]], abs=0.01
        )
    assert night["virtual_sec"] > max(update["train_sec"] for update in updates)
    assert night["wall_sec"] < night["virtual_sec"] / 2  # a night is not waited for


def test_a_recorded_fleet_works_when_it_was_there(tiny_tflite: Path, tmp_path: Path) -> None:
    """Devices of trace a are there for seconds 100 to 200 of every 1,000, those of b for 300 to 1,000."""
    (tmp_path / "fleet.csv").write_text(TRACE)
    fast = "[[profiles]]\nexamples_per_sec = 1e6\nlatency_sec = 0.01\n"
    record = simulate(tmp_path, tiny_tflite, 'trace = "fleet.csv"', fast)
    assert record["devices"][0]["profile"]["availability"] == {
        "period_sec": 1000,
        "num_windows": 1,
        "share": 0.1,
    }
    for done in record["rounds"][1:]:
        within = done["closed_sec"] % 1000
        assert 100 <= within <= 200 or 300 <= within <= 1000
        assert {update["device"] for update in done["updates"]} <= (
            {"phone-0", "phone-2", "phone-4"} if within <= 200 else {f"phone-{i}" for i in range(6)}
        )
