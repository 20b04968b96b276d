"""The page of a real simulation holds what happened in it; `fedfer report` and `compare` read its record."""

import json
import sys
from pathlib import Path
from typing import Any

import prepared
import pytest
from page_reader import Page

SCENARIO = """
# Six phones & one attacker.
name = "tiny"
title = "A tiny <run>"
target_accuracy = 1.0
[model]
path = "model.tflite"
[data]
take = 48
source = "drawn"
[holdout]
source = "drawn"
skip = 48
take = 21
[partition]
scheme = "dirichlet"
num_devices = 6
[run]
num_rounds = 3
[run.rounds]
num_clients = 6
min_clients = 2
deadline_sec = 600
batch_size = 4
learning_rate = 0.05
[run.gates]
max_norm_ratio = 3.0
[attack]
kind = "scale"
share = 0.17
factor = 50.0
[[profiles]]
name = "mid"
examples_per_sec = {lognormal = [10, 0.5]}
"""


def fedfer(*arguments: object) -> str:
    command = [sys.executable, "-m", "fedfer.cli.main", *map(str, arguments)]
    done = prepared.run(command)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def output(tiny_tflite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a simulation that has run."""
    folder = tmp_path_factory.mktemp("simulated")
    (folder / "model.tflite").write_bytes(tiny_tflite.read_bytes())
    (folder / "tiny.toml").write_text(SCENARIO)
    fedfer("simulate", folder / "tiny.toml", "--output", folder / "out")
    return folder / "out"


def record_of(output: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((output / "record.json").read_text())
    return record


def test_the_page_holds_what_happened(output: Path) -> None:
    record, page = record_of(output), Page((output / "report.html").read_text())
    measures = record["final"]["measures"]
    held_back = sum(1 for each in record["rounds"] for update in each["updates"] if update["code"])
    assert held_back > 0
    (attacker,) = (device for device in record["devices"] if device["attack"])
    for words in (
        "A tiny <run>",
        "6 devices trained",
        f"{measures['accuracy']:.1%}",
        record["final"]["weights"],
        SCENARIO.strip(),
        "run.gates.max_norm_ratio",
        record["command"],
        record["runtime"],
        "norm_too_large",
        attacker["name"],
        *record["model"]["labels"],
        *(device["name"] for device in record["devices"]),
    ):
        assert words in page.text, words
    assert page.tags.count("svg") >= 7
    assert {"script", "link", "img"}.isdisjoint(page.tags)


def test_it_is_made_again_from_the_record(output: Path, tmp_path: Path) -> None:
    fedfer("report", output, "--output", tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == (output / "report.html").read_bytes()


def test_it_is_compared_with_another_run(output: Path) -> None:
    other = output.parent / "other"
    scenario = output.parent / "tiny.toml"
    fedfer("simulate", scenario, "--output", other, "--rounds=1", "--seed=1", "--set", "run.gates={}")
    body = json.loads(fedfer("compare", output, other, "--json"))
    first, second = body["runs"]
    assert (first["name"], second["name"], body["target_accuracy"]) == ("out", "other", 1.0)
    assert (first["num_rounds"], second["num_rounds"]) == (3, 1)
    assert first["final_accuracy"] == record_of(output)["final"]["measures"]["accuracy"]
    assert body["differences"] == {
        "seed": ["0", "1"],
        "run.num_rounds": ["3", "1"],
        "run.gates.max_norm_ratio": ["3.0", "-"],
    }
