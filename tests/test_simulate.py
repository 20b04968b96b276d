"""`fedfer simulate`: an aggregator and a fleet in virtual time, in real processes over real sockets."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import prepared
import pytest
from broken_off import simulate_until_kept
from prepared import call_isolated

from fedfer.cli.mean_version import mean_of
from fedfer.export.checkpoint import checkpoint_bytes, digest_of, load_checkpoint
from fedfer.export.contract import read_contract
from fedfer.model.errors import InterpreterError
from fedfer.model.sources import load_images

SCENARIO = """
name = "tiny"
[model]
path = "model.tflite"
[data]
take = 48
source = "drawn"
[holdout]
source = "drawn"
skip = 48
take = 20
[partition]
scheme = "iid"
num_devices = 6
[run]
num_rounds = 3
[run.rounds]
num_clients = 3
local_epochs = 2
batch_size = 4
learning_rate = 0.05
"""


@pytest.fixture
def scenario(tmp_path: Path, tiny_tflite: Path) -> Path:
    (tmp_path / "model.tflite").write_bytes(tiny_tflite.read_bytes())
    path = tmp_path / "tiny.toml"
    path.write_text(SCENARIO)
    return path


def command(scenario: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "fedfer.cli.main", "simulate", str(scenario), *more]


def simulate(scenario: Path, output: str, *more: str) -> dict[str, Any]:
    place = scenario.parent / output
    done = prepared.run(command(scenario, f"--output={place}", *more))
    assert done.returncode == 0, done.stdout + done.stderr
    record: dict[str, Any] = json.loads((place / "record.json").read_text())
    return record


def same(record: dict[str, Any]) -> dict[str, Any]:
    """What of a record must not depend on the machine."""
    machine = ("command", "num_processes", "started_at", "wall_sec")
    kept = {key: value for key, value in record.items() if key not in machine}
    kept["rounds"] = [{**done, "wall_sec": 0.0} for done in record["rounds"]]
    return kept


def test_the_number_of_processes_changes_nothing(scenario: Path) -> None:
    one = simulate(scenario, "one", "--processes=1")
    three = simulate(scenario, "three", "--processes=3")
    assert same(one) == same(three)
    assert [done["round"] for done in one["rounds"]] == [0, 1, 2, 3]
    assert [len(done["updates"]) for done in one["rounds"]] == [0, 3, 3, 3]
    assert one["final"]["measures"]["num_examples"] == 20
    assert (scenario.parent / "one" / "final.safetensors").stat().st_size == one["model"]["checkpoint_bytes"]
    assert (one["mean"]["rounds"], one["mean"]["measures"]["num_examples"]) == ([1, 2, 3], 20)
    versions = [
        scenario.parent / "one" / "work" / "server" / "versions" / f"{done['weights']}.safetensors"
        for done in one["rounds"][1:]
    ]
    contract = read_contract(scenario.parent / "model.tflite")
    mean = checkpoint_bytes(mean_of(load_checkpoint(path, contract) for path in versions), contract)
    assert (scenario.parent / "one" / "mean.safetensors").read_bytes() == mean
    assert one["mean"]["weights"] == digest_of(mean)
    other = simulate(scenario, "other", "--seed=1", "--rounds=1")
    assert other["mean"] is None
    assert other["final"]["weights"] != one["final"]["weights"]


def test_the_bytes_of_a_round_are_those_of_its_devices(scenario: Path) -> None:
    record = simulate(scenario, "out")
    size, model = record["model"]["checkpoint_bytes"], record["model"]["num_bytes"]
    # Places for 1.3 x 3 devices. The fourth's upload is under way when its round closes; it ends in the next.
    assert [done["bytes_up"] // size for done in record["rounds"]] == [0, 3, 4, 4]
    assert sum(done["bytes_up"] for done in record["rounds"]) == 11 * size
    assert record["refusals"] == {"round_over": 2}
    sent = [(device["num_accepted"] + device["num_rejected"]) * size for device in record["devices"]]
    assert [device["sent_bytes"] for device in record["devices"]] == sent
    assert record["rounds"][1]["bytes_down"] == 4 * (size + model)


def test_an_update_that_would_begin_after_its_round_is_not_sent(scenario: Path) -> None:
    """Turned away before its body. Devices train for a minute, each in its time, and send in an instant."""
    profiles = "[[profiles]]\nexamples_per_sec = {uniform = [0.2, 1.0]}\nup_mbit_per_sec = 1000.0\n"
    scenario.write_text(SCENARIO + profiles)
    record = simulate(scenario, "out")
    assert record["refusals"]["round_over"] > 0
    assert sum(done["bytes_up"] for done in record["rounds"]) == 9 * record["model"]["checkpoint_bytes"]


def test_a_run_in_which_nothing_can_happen_ends(scenario: Path) -> None:
    rows = ["device,start_sec,end_sec,idle,charging,unmetered", "a,100,200,1,1,1", "b,1000,1100,1,1,1"]
    (scenario.parent / "apart.csv").write_text("\n".join([*rows, ""]))
    text = SCENARIO.replace("num_clients = 3", "num_clients = 3\nmin_devices = 6")
    scenario.write_text('trace = "apart.csv"\n' + text + "[server]\nactive_sec = 50.0\n")
    done = prepared.run(command(scenario, f"--output={scenario.parent / 'out'}"))
    assert done.returncode == 1
    assert "rounds wait for 6 devices (run.rounds.min_devices), and at most" in done.stdout
    assert done.stderr.startswith("fedfer simulate: no device has been given work in ")
    assert " has 0 of 3 updates; see run.rounds.min_devices" in done.stderr


def test_what_is_refused_leaves_what_is_there(scenario: Path) -> None:
    """Another model in the directory of a simulation; --fresh with images that are not there."""
    record = simulate(scenario, "out", "--rounds=1")
    place = scenario.parent / "out"
    state, held = (place / "work" / "snapshot" / "state.json"), (place / "model.tflite").read_bytes()
    before = state.read_bytes()
    (scenario.parent / "model.tflite").write_bytes(held + b"\0")
    done = prepared.run(command(scenario, f"--output={place}", "--rounds=1"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "--fresh" in done.stderr
    done = prepared.run(command(scenario, f"--output={place}", "--rounds=1", "--fresh", "--data=none.csv"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "none.csv" in done.stderr
    assert (place / "model.tflite").read_bytes() == held
    assert state.read_bytes() == before
    (scenario.parent / "model.tflite").write_bytes(held)
    again = simulate(scenario, "out", "--rounds=1")
    assert again["started_at"] == record["started_at"]  # it goes on from its end


def test_a_simulation_that_was_killed_goes_on(scenario: Path) -> None:
    whole = simulate(scenario, "whole", "--rounds=5")
    place = scenario.parent / "killed"
    process = subprocess.Popen(
        command(scenario, f"--output={place}", "--rounds=5"),
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
    again = simulate(scenario, "killed", "--rounds=5")
    assert same(again) == same(whole)


def test_who_goes_on_from_a_snapshot_goes_on_with_every_device(scenario: Path) -> None:
    """Also with the one whose update closed the round of the snapshot: all six are wanted in the next."""
    scenario.write_text(SCENARIO.replace("num_clients = 3", "num_clients = 6\nover_selection = 1.0"))
    whole = simulate(scenario, "whole", "--processes=1")
    place = f"--output={scenario.parent / 'killed'}"
    with pytest.raises(InterpreterError, match="exit code -9"):
        call_isolated(simulate_until_kept, [str(scenario), place, "--processes=1"], 1)
    assert same(simulate(scenario, "killed", "--processes=1")) == same(whole)
    assert [len(done["updates"]) for done in whole["rounds"]] == [0, 6, 6, 6]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('scheme = "iid"', 'scheme = "fair"', "expected a partition"),
        ("num_rounds = 3", "num_rounds = 0", "rounds is 0; expected 1 to 1000000"),
        ("num_devices = 6", "num_phones = 6", "partition has no setting 'num_phones'"),
        ('name = "tiny"', 'title = "tiny"', "name is missing"),
        ("[run]", "[jog]", "a scenario has no 'jog'"),
        ('[data]\ntake = 48\nsource = "drawn"', "[data]\ntake = 48", "names no images; give --data SOURCE"),
        ("[run]\n", "[server]\npace = {foo = 1}\n[run]\n", "server.pace has no setting 'foo'"),
        ("skip = 48", 'skip = 48\nusage = "Test"', "drawn faces have no Usage"),
        (
            "num_clients = 3",
            "num_clients = 3\nmin_devices = 7",
            "min_devices is 7, and the fleet has 6 devices",
        ),
        ('"model.tflite"', '"none.tflite"', "cannot read model none.tflite: No such file"),
        ('"model.tflite"', '"model.tflite"\noptions = {dropout = 0.1}', "options are of an export"),
        ('"model.tflite"', '"model.tflite"\nmemory_mb = 2000', "no device has more than 1000: none could"),
    ],
)
def test_bad_scenarios_are_refused(scenario: Path, old: str, new: str, words: str) -> None:
    scenario.write_text(SCENARIO.replace(old, new, 1))
    done = prepared.run(command(scenario, f"--output={scenario.parent / 'out'}"))
    assert done.returncode == 1
    assert done.stderr.startswith("fedfer simulate: ")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (scenario.parent / "out" / "work" / "server").exists()  # nothing was begun


def test_a_column_makes_as_many_devices_as_it_has_users(scenario: Path) -> None:
    faces, users = load_images("drawn", take=12), "abcd"
    rows = [
        f"{label},{' '.join(map(str, image.ravel()))},user-{users[number % 4]}"
        for number, (image, label) in enumerate(zip(faces.images, faces.labels, strict=True))
    ]
    (scenario.parent / "users.csv").write_text("\n".join(["emotion,pixels,user", *rows, ""]))
    text = SCENARIO.replace('take = 48\nsource = "drawn"', 'source = "users.csv"', 1)
    text = text.replace('"iid"\nnum_devices = 6', '"column"\ncolumn = "user"').replace(
        "num_rounds = 3", "num_rounds = 1"
    )
    scenario.write_text(text)
    record = simulate(scenario, "users", "--processes=1")
    assert [device["num_examples"] for device in record["devices"]] == [3, 3, 3, 3]
    assert record["scenario"]["partition"]["num_devices"] == 4
