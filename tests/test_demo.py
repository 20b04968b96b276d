"""The demo: its plan, its outputs and its children, and a whole training of the tiny model through them."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from waiting import PATIENCE_SEC, children_of, is_running, wait_for

from fedfer.cli.children import Children, wait_for_line
from fedfer.cli.demo import federate, finish, load_held_out
from fedfer.cli.demo_output import DemoOutput
from fedfer.cli.demo_plan import DemoPlan
from fedfer.cli.reports import parse_round, table_header, table_row
from fedfer.cli.watch import Screen
from fedfer.model.errors import DataError, FedferError, UsageError

ARTICLE: dict[str, Any] = {
    "data": "drawn",
    "devices": 3,
    "examples_per_device": 5,
    "rounds": 6,
    "local_epochs": 3,
    "batch_size": 5,
    "learning_rate": 0.02,
    "partition": "contiguous",
    "alpha": 0.5,
    "holdout_data": None,
    "holdout_take": 5,
    "processes": None,
    "seed": 0,
    "runtime": "auto",
}


def plan(**changes: Any) -> DemoPlan:
    return DemoPlan(**{**ARTICLE, **changes})


@pytest.mark.parametrize(
    ("changes", "pool_size", "holdout_skip"),
    [
        ({}, 15, 15),
        ({"data": "a.csv"}, 15, 15),
        ({"data": "a.csv", "holdout_data": "./a.csv"}, 15, 15),
        ({"data": "a.csv", "holdout_data": "b.csv"}, 15, 0),
        ({"data": "a.csv", "holdout_data": "drawn"}, 15, 0),
        ({"partition": "dirichlet"}, 75, 75),
        ({"partition": "shards", "examples_per_device": 6}, 18, 18),
        ({"partition": "dirichlet", "data": "a.csv", "holdout_data": "b.csv"}, None, 0),
    ],
)
def test_phones_and_measuring_share_no_image(
    changes: dict[str, Any], pool_size: int | None, holdout_skip: int
) -> None:
    chosen = plan(**changes)
    assert (chosen.pool_size, chosen.holdout_skip) == (pool_size, holdout_skip)


def test_command_lines() -> None:
    chosen = plan(data="a b.csv", seed=4)
    assert chosen.export_arguments(Path("m.tflite")) == [
        "export",
        "--output=m.tflite",
        "--dropout=0.3",
        "--learning-rate=0.02",
        "--seed=4",
    ]
    devices = chosen.devices_arguments("http://127.0.0.1:1")
    assert {"--data=a b.csv", "--take=15", "--count=3", "--data-seed=4"} < set(devices)
    assert "--port=0" in chosen.serve_arguments(Path("m.tflite"), Path("d"))


@pytest.mark.parametrize("option", ["devices", "examples_per_device", "rounds", "holdout_take", "processes"])
def test_plan_refuses_zeros(option: str) -> None:
    with pytest.raises(UsageError, match=rf"expected --{option.replace('_', '-')} of at least 1; received 0"):
        plan(**{option: 0})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"learning_rate": float("nan")}, "learning-rate is nan"),
        ({"learning_rate": -1.0}, "learning-rate is -1.0"),
        ({"dropout": 1.0}, "expected --dropout"),
        ({"alpha": 0.0}, "expected an alpha of 0.001"),
        ({"devices": 20_000}, "clients is 20000"),
    ],
)
def test_plan_refuses_what_its_children_would(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        plan(**changes)


def test_a_source_that_does_not_do_fails_before_anything_starts(tmp_path: Path) -> None:
    path = tmp_path / "faces.csv"
    path.write_text("emotion,pixels\n" + f"0,{' '.join(['0'] * 2304)}\n" * 18)
    with pytest.raises(DataError, match=r"expected 5 image\(s\) after the first 15; found 3"):
        load_held_out(plan(data=str(path)))
    with pytest.raises(DataError, match=r"expected 30 image\(s\) after the first 0; found 18"):
        load_held_out(plan(data=str(path), devices=6, holdout_data="drawn"))
    assert len(load_held_out(plan(data=str(path), holdout_take=3))) == 3


def round_body(number: int, num_phones: int) -> dict[str, Any]:
    """A round as docs/protocol.md has it; phone i has loss i and i + 1 examples."""
    updates = [
        {
            "device_id": f"id{i}",
            "device_name": f"phone-{i}",
            "update": "0" * 64,
            "num_examples": i + 1,
            "loss": float(i),
            "accuracy": 0.5,
            "train_sec": 1.5,
            "received_bytes": 20_000_000,
        }
        for i in reversed(range(num_phones))
    ]
    return {
        "round": number,
        "phase": "done",
        "updates": updates,
        "duration_sec": 4.25,
        "bytes_up": 20_000_000 * num_phones,
        "bytes_down": 1_000_000,
        "holdout_loss": 1.9,
        "holdout_accuracy": 0.2,
    }


def test_table_of_few_phones_and_of_many() -> None:
    names = ["phone-0", "phone-1", "phone-2"]
    row = table_row(parse_round(round_body(1, 2)), names)
    assert row == ["1", "0.000  50%", "1.000  50%", "-", "1.900  20%", "4.2", "40.0", "1.0"]
    assert len(row) == len(table_header(names))
    many = [f"phone-{i}" for i in range(12)]
    row = table_row(parse_round(round_body(2, 12)), many)
    # mean of 0..11 weighted by 1..12: 572 / 78
    assert row[1:3] == ["7.333  50%", "0.00-11.00 50%-50%"]
    assert len(row) == len(table_header(many))
    initial = table_row(parse_round(round_body(0, 0)), many)
    assert initial == ["0", "-", "-", "1.900  20%", "-", "-", "-"]


def test_output_replaces_only_what_a_demo_wrote(tmp_path: Path) -> None:
    output = DemoOutput(tmp_path / "out")
    output.prepare()
    (output.directory / "notes.txt").write_text("mine")
    output.curves.write_bytes(b"old")
    (output.server_data / "old.db").touch()
    output.prepare()
    assert (output.directory / "notes.txt").read_text() == "mine"
    assert not output.curves.exists()
    assert list(output.server_data.iterdir()) == []


def test_output_refuses_a_directory_of_other_origin(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "precious").touch()
    with pytest.raises(UsageError, match="holds files that are not an earlier demo's"):
        DemoOutput(tmp_path).prepare()
    assert (tmp_path / "server" / "precious").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot write to"):
        DemoOutput(tmp_path / "file").prepare()


def test_a_failed_child_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    with Children(tmp_path) as children:
        child = children.start("evaluate", str(tmp_path / "absent.tflite"), "--data=drawn", "--take=1")
        with pytest.raises(FedferError) as caught:
            child.wait(PATIENCE_SEC)
        with pytest.raises(FedferError, match="exit code 1"):
            children.check()
    assert "`fedfer evaluate` failed with exit code 1" in str(caught.value)
    assert "absent.tflite: No such file or directory" in str(caught.value)


def serving(tiny_tflite: Path, folder: Path) -> list[str]:
    return ["serve", str(tiny_tflite), f"--data-dir={folder / 'data'}", "--port=0"]


def test_children_are_stopped_however_the_block_ends(tmp_path: Path, tiny_tflite: Path) -> None:
    children = Children(tmp_path)
    with pytest.raises(KeyboardInterrupt), children:  # noqa: PT012 - what is raised at its end is the point
        server = children.start("serve", str(tiny_tflite), f"--data-dir={tmp_path / 'data'}", "--port=0")
        wait_for_line(server, "serving ", PATIENCE_SEC)
        assert is_running(server.pid)
        with pytest.raises(FedferError, match=r"did not say `ready` within 0\.2 s"):
            wait_for_line(server, "ready", 0.2)
        raise KeyboardInterrupt
    assert not is_running(server.pid)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_tflite: Path) -> DemoOutput:
    """The output of a demo that found its model exported: two phones, two rounds."""
    output = DemoOutput(tmp_path_factory.mktemp("demo") / "out")
    output.prepare()
    output.model.write_bytes(tiny_tflite.read_bytes())
    chosen = plan(devices=2, rounds=2, local_epochs=1, holdout_take=9, processes=1)
    with Children(output.logs) as children:
        reports = federate(chosen, output, children, Screen())
    finish(chosen, output, reports, load_held_out(chosen), Screen())
    return output


def test_a_whole_training_leaves_its_results(trained: DemoOutput) -> None:
    assert trained.curves.read_bytes().startswith(b"\x89PNG")
    result = json.loads(trained.rounds_json.read_text())
    assert [each["round"] for each in result["rounds"]] == [0, 1, 2]
    assert [len(each["phones"]) for each in result["rounds"]] == [0, 2, 2]
    last = result["rounds"][-1]
    # What `evaluate` finds with the checkpoint is what the server found when it made it.
    assert last["loss"] == pytest.approx(result["final"]["loss"], rel=1e-6)
    assert last["accuracy"] == result["final"]["accuracy"]
    assert result["final"]["num_examples"] == 9
    size = trained.final.stat().st_size
    assert [phone["received_bytes"] for phone in last["phones"]] == [size, size]
    assert last["bytes_up"] == 2 * size
    rows = list(csv.DictReader(trained.rounds_csv.read_text().splitlines()))
    assert [(row["round"], row["who"]) for row in rows] == [
        ("0", "global"),
        *[(number, who) for number in "12" for who in ("phone-0", "phone-1", "global")],
    ]
    for path in (trained.curves, trained.final, trained.rounds_csv, trained.logs):
        assert str(path) in trained.describe()


def test_ctrl_c_stops_everything(tmp_path: Path) -> None:
    """The real command, interrupted while its export runs: exit code 130, one line, no process left."""
    command = [sys.executable, "-m", "fedfer.cli.main", "demo", "--output", str(tmp_path / "out")]
    started: list[int] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        try:
            wait_for(lambda: children_of(demo.pid) != [], "the export")
            started += children_of(demo.pid)
            demo.send_signal(signal.SIGINT)
            _, errors = demo.communicate(timeout=PATIENCE_SEC)
        finally:
            demo.kill()
            left = [pid for pid in started if is_running(pid)]
            for pid in left:
                os.kill(pid, signal.SIGKILL)
    assert len(started) == 1
    assert (demo.returncode, errors.strip()) == (130, "fedfer demo: interrupted")
    assert left == []
