"""Simulations side by side: names, targets, settings that differ; the command's table, JSON and page."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import prepared
import pytest
from page_reader import Page
from simulation_records import make_record

from fedfer.cli.simulation_report import comparison
from fedfer.cli.simulation_report.comparison import Run
from fedfer.cli.simulation_report.comparison_page import render_comparison
from fedfer.cli.simulation_report.record import Record, parse_record
from fedfer.model.errors import UsageError


def record_of(**more: Any) -> Record:
    return parse_record(json.dumps(make_record(**more)).encode(), "record.json")


def names_of(places: list[str], names: list[str]) -> list[str]:
    records = [record_of(num_devices=1, num_rounds=1, name=name) for name in names]
    return [run.name for run in comparison.named([Path(place) for place in places], records)]


@pytest.mark.parametrize(
    ("places", "names", "expected"),
    [
        (["a/record.json", "b/record.json"], ["iid", "shards"], ["iid", "shards"]),
        (["x/a/record.json", "x/b/record.json"], ["iid", "iid"], ["a", "b"]),
        (["x/a/record.json", "y/a/record.json"], ["iid", "iid"], ["x/a/record.json", "y/a/record.json"]),
        (["a/record.json", "a/record.json"], ["iid", "iid"], ["a/record.json (0)", "a/record.json (1)"]),
    ],
)
def test_runs_are_called_what_tells_them_apart(
    places: list[str], names: list[str], expected: list[str]
) -> None:
    assert names_of(places, names) == expected


def test_more_runs_than_curves_can_be_told_apart() -> None:
    with pytest.raises(UsageError, match="expected 1 to 20 records to compare; received 21"):
        names_of([f"{i}/record.json" for i in range(21)], ["run"] * 21)


def test_outcome_by_hand() -> None:
    """1 - 0.85 exp(-8 / 5) = 0.828, the round before 0.790; 10 devices send 1 MB each a round."""
    found = comparison.outcome(Run("a", record_of(num_devices=10, num_rounds=20)), 0.8)
    assert found.best is not None
    assert found.target is not None
    assert (found.best.round, found.target.round, found.target.virtual_sec) == (20, 8, 480.0)
    assert found.target.bytes == 8 * 10 * (2_000_000 + 1000)
    assert (found.num_rounds, found.bytes_up) == (20, 200_000_000)
    assert (found.final_accuracy, found.final_loss) == (0.95, found.best.loss)


def test_without_final_measures_the_last_version_counts() -> None:
    final = {"weights": "c" * 64, "round": 3, "measures": None}
    found = comparison.outcome(Run("a", record_of(num_rounds=3, final=final)), None)
    assert found.final_accuracy == pytest.approx(0.5335, abs=1e-4)
    assert found.target is None


def test_the_target_is_the_highest_that_records_tell_of() -> None:
    reached = record_of(num_rounds=20)  # 0.8
    missed = record_of(num_rounds=1, target=None, scenario={"target_accuracy": 0.9})
    none = record_of(num_rounds=1, target=None, scenario={"target_accuracy": "high"})
    assert comparison.wanted_accuracy([Run("a", reached), Run("b", none)]) == 0.8
    assert comparison.wanted_accuracy([Run("a", reached), Run("b", missed)]) == 0.9
    assert comparison.wanted_accuracy([Run("b", none)]) is None


def test_only_settings_that_differ_are_named() -> None:
    one = make_record()["scenario"]
    other = {**one, "name": "other", "partition": {"kind": "iid"}, "attack": {"share": 0.2}}
    runs = [Run("a", record_of()), Run("b", record_of(scenario=other, seed=8))]
    assert comparison.differences(runs) == {
        "partition.kind": ["dirichlet", "iid"],
        "partition.alpha": ["0.5", "-"],
        "seed": ["7", "8"],
        "attack.share": ["-", "0.2"],
    }


def test_the_page() -> None:
    runs = [Run("<b>iid</b>", record_of(num_rounds=20)), Run("shards", record_of(num_rounds=5, seed=8))]
    page = Page(render_comparison(runs, 0.8))
    assert page.tags.count("svg") == 4
    assert "b" not in page.tags
    assert all(target.startswith("#") for target in page.targets)
    for words in (
        "<b>iid</b>",
        "2 simulations side by side",
        "rounds to 80%",
        "not reached",
        "seed",
        "surprise",
    ):
        assert words in page.text, words


def test_the_page_of_runs_that_were_never_measured_and_have_other_labels() -> None:
    bare = record_of(
        num_rounds=0, rounds=[], final={"weights": "", "round": 0, "measures": None}, target=None
    )
    body = make_record(num_devices=1, num_rounds=1)
    body["model"]["labels"] = list("abcdefg")
    other = parse_record(json.dumps(body).encode(), "record.json")
    text = Page(render_comparison([Run("bare", bare), Run("other", other)], None)).text
    assert "Recall of each label" not in text


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Two runs' folders."""
    for name, more in (("iid", {"num_rounds": 20}), ("few", {"num_rounds": 4, "seed": 8})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_text(json.dumps(make_record(**more)))
    return [tmp_path / "iid", tmp_path / "few"]


def fedfer(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fedfer.cli.main", "compare", *map(str, arguments)]
    return prepared.run(command)


def test_the_table(folders: list[Path]) -> None:
    done = fedfer(*folders)
    assert (done.returncode, done.stderr) == (0, "")
    header, *lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert header == (
        "run devices rounds final accuracy loss best of round rounds to 80% time to it bytes to it "
        "virtual time up down turned away"
    )
    assert lines == [
        "iid 10 20 95.0% 0.0257 98.4% 20 8 8 min 160 MB 20 min 200 MB 200 MB 3",
        "few 10 4 59.0% 0.4912 61.8% 4 not reached - - 4 min 40.0 MB 40.0 MB 3",
        "",
        "setting that differs iid few",
        "seed 7 8",
        "run.num_rounds 20 4",
    ]


def test_for_programs(folders: list[Path]) -> None:
    done = fedfer(*folders, "--json", "--target-accuracy", "0.5", "--output", folders[0] / "both.html")
    assert (done.returncode, done.stderr) == (0, "")
    body = json.loads(done.stdout)
    assert body["target_accuracy"] == 0.5
    assert [run["target"]["round"] for run in body["runs"]] == [3, 3]
    assert body["differences"] == {"run.num_rounds": ["20", "4"], "seed": ["7", "8"]}
    assert "2 simulations side by side" in Page((folders[0] / "both.html").read_text()).text


def test_what_it_cannot_use_is_one_line(folders: list[Path]) -> None:
    (folders[1] / "record.json").write_text('{"format": "fedfer.simulation/1", "name": 3}')
    for arguments in (folders, [folders[0], "--target-accuracy", "1.5"], [folders[0] / "no.json"]):
        done = fedfer(*arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("fedfer compare: ")
        assert done.stderr.count("\n") == 1


def test_names_from_records_cannot_drive_a_terminal(tmp_path: Path) -> None:
    body = make_record(num_devices=1, num_rounds=1, name="\x1b[2Jrun\n" + "x" * 100)
    (tmp_path / "record.json").write_text(json.dumps(body))
    done = fedfer(tmp_path)
    assert "\x1b" not in done.stdout
    assert len(done.stdout.splitlines()) == 2
