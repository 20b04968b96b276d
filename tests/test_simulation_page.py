"""The page of a simulation: whole, self-contained, escaped, small, the same every time."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import prepared
import pytest
from page_reader import Page
from simulation_records import LABELS, make_record

from fedfer.cli.simulation_report.figures import _binned, distributions, events
from fedfer.cli.simulation_report.page import render_report, write_report
from fedfer.cli.simulation_report.record import Record, parse_record
from fedfer.model.errors import StoreError


def record_of(body: dict[str, Any]) -> Record:
    return parse_record(json.dumps(body).encode(), "record.json")


@pytest.fixture(scope="module")
def html() -> str:
    return render_report(record_of(make_record(num_devices=30, num_rounds=20, places=12, attackers=3)))


def test_it_says_what_a_reader_asks_for(html: str) -> None:
    text = Page(html).text
    for words in (
        "A made-up run",
        "30 devices trained vgg_fer (5,102,791 parameters) for 20 rounds, averaged by fedavg",
        "80% reached",
        "Accuracy against bytes",
        "Accuracy against the fleet's time",
        "What each level of accuracy took",
        "Confusion matrix",
        "Who holds what",
        "sign_flip",
        "norm_too_large",
        "aggregator_killed",
        "killed in step 3, went on",
        "fedfer simulate made-up.toml --output out",
        "seed = 7  # <any>",
        "run.rounds.num_clients",
        "c" * 64,
        *LABELS,
    ):
        assert words in text, words
    assert Page(html).tags.count("svg") == 8


def test_it_needs_nothing_else(html: str) -> None:
    page = Page(html)
    assert {"script", "link", "img", "iframe", "object"}.isdisjoint(page.tags)
    assert all(target.startswith("#") for target in page.targets)
    without_names = re.sub(r'xmlns(:\w+)?="[^"]*"', "", html)
    assert not re.search(r"https?:|@import|url\((?!#)", without_names)


def test_figures_take_their_colours_from_the_page(html: str) -> None:
    """Every colour is a variable that the style sheet defines, for light and dark."""
    defined = set(re.findall(r"(--[\w]+):", html))
    assert set(re.findall(r"var\((--\w+)\)", html)) <= defined
    drawn = "".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    assert "var(--accent)" in drawn
    assert not re.search(r"#[0-9a-f]{6}", re.sub(r"(href=\"|url\()#\w+", "", drawn))


def test_the_same_record_gives_the_same_bytes(html: str) -> None:
    body = make_record(num_devices=30, num_rounds=20, places=12, attackers=3)
    assert render_report(record_of(body)) == html


HOSTILE = "<script>alert(1)</script>\"'&$\\frac{$ {{ 7 * 7 }} \u202e \u4f60 \x07"


def test_everything_from_a_record_is_text() -> None:
    """Put into every text there is, it stays text: no tag more, no template, no formula."""
    body = make_record(num_devices=3, num_rounds=2, attackers=1)
    plain = Page(render_report(record_of(body)))
    for place, keys in (
        (body, ("name", "title", "toml", "command", "fedfer_version", "runtime", "engine", "started_at")),
        (body["model"], ("name", "sha256", "contract")),
        (body["stop"], ("reason", "text")),
        (body["final"], ("weights",)),
        (body["faults"][0], ("device", "kind", "text")),
        (body["rounds"][1], ("outcome", "reason")),
        (body["rounds"][1]["updates"][0], ("code",)),
        (body["devices"][0], ("attack",)),
    ):
        for key in keys:
            place[key] = HOSTILE
    body["model"]["labels"][0] = body["devices"][1]["name"] = HOSTILE
    body["refusals"] = {HOSTILE: 1}
    body["scenario"] = {HOSTILE: HOSTILE}
    page = Page(render_report(record_of(body)))
    assert "script" not in page.tags
    assert HOSTILE in page.text
    assert page.tags.count("svg") == plain.tags.count("svg")


@pytest.mark.parametrize(
    "change",
    [
        {"rounds": []},
        {"devices": [], "rounds": []},
        {"final": {"weights": "c" * 64, "round": 0, "measures": None}},
        {"faults": [], "refusals": {}, "target": None},
        {"scenario": {}, "toml": "", "wall_sec": 0.0, "virtual_sec": 0.0},
    ],
)
def test_what_is_not_known_is_left_out(change: dict[str, Any]) -> None:
    Page(render_report(record_of(make_record(num_devices=2, num_rounds=1, **change))))


def test_without_a_holdout_devices_own_curves_are_there() -> None:
    body = make_record(num_devices=2, num_rounds=3)
    for each in body["rounds"]:
        each["loss"] = each["accuracy"] = None
    text = Page(render_report(record_of(body))).text
    assert "Accuracy by round" in text
    assert "Accuracy against bytes" not in text


def test_one_device_one_round_one_label() -> None:
    body = make_record(num_devices=1, num_rounds=1)
    body["model"]["labels"] = ["only"]
    body["devices"][0]["label_counts"] = [5]
    body["final"]["measures"] |= {"per_class_recall": [None], "confusion": [[0]]}
    Page(render_report(record_of(body)))


def test_devices_that_are_alike_are_one_bar_with_its_number() -> None:
    body = make_record(num_devices=3, num_rounds=1)
    for device in body["devices"]:
        device |= {"num_examples": 600, "label_counts": [], "sent_bytes": 122_493_288, "busy_sec": 183.0}
    for update in body["rounds"][1]["updates"]:
        update["accuracy"] = 0.25
    words = re.findall(r">([^<>]+)</text>", distributions(record_of(body)))
    places = [words.index(title) for title in ("examples", "busy, min", "sent, MB", "updates averaged")]
    assert places == sorted(places)  # a panel's numbers stand before its title
    assert {"600", "3.05", "122.5", "25.0%"} <= set(words)
    assert not {"605", "3.04"} & set(words)


def test_many_labels_are_told_by_their_confusions() -> None:
    body = make_record(num_devices=2, num_rounds=1)
    num = 40
    body["model"]["labels"] = [f"label {i}" for i in range(num)]
    for device in body["devices"]:
        device["label_counts"] = [1] * num
    confusion = [[0] * num for _ in range(num)]
    confusion[3][4] = 9
    body["final"]["measures"] |= {"per_class_recall": [0.0] * num, "confusion": confusion}
    text = Page(render_report(record_of(body))).text
    assert "The most frequent confusions" in text
    assert "Confusion matrix" not in text


def test_a_large_run_stays_small() -> None:
    """1,000 devices, 500 rounds: below 3 MB."""
    body = make_record(num_devices=1000, num_rounds=500, places=20, attackers=200)
    body["faults"] *= 1000
    html = render_report(record_of(body))
    assert 100_000 < len(html.encode()) < 1_500_000
    assert "100 of 1000 devices" in Page(html).text


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    record = record_of(make_record(num_devices=1, num_rounds=1))
    with pytest.raises(StoreError, match=r"cannot write .*report.html"):
        write_report(tmp_path / "file" / "report.html", record)
    (tmp_path / "report.html").mkdir()
    with pytest.raises(StoreError, match=r"cannot write .*report.html: Is a directory"):
        write_report(tmp_path / "report.html", record)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "report.html"]


def fedfer(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fedfer.cli.main", *map(str, arguments)]
    return prepared.run(command)


def test_the_command(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text(json.dumps(make_record()))
    done = fedfer("report", tmp_path)
    page = tmp_path / "report.html"
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"wrote {page}, {page.stat().st_size:,} bytes\n"
    assert "A made-up run" in Page(page.read_text()).text
    done = fedfer("report", tmp_path / "record.json", "--output", tmp_path / "new" / "page.html")
    assert done.returncode == 0
    assert (tmp_path / "new" / "page.html").read_bytes() == page.read_bytes()


def test_the_command_on_something_else(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text('{"format": 1}')
    done = fedfer("report", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("fedfer report: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "report.html").exists()


def test_events_that_fall_together_are_one_mark() -> None:
    """240 marks to 24 s: 0.1 s each; what lies behind the end is put there."""
    times, counts = _binned(np.array([0.01, 0.03, 12.0, 30.0]), 24.0)
    assert times.tolist() == pytest.approx([0.02, 12.0, 24.0])
    assert counts.tolist() == [2, 1, 1]


def test_what_went_wrong_in_the_order_of_first_appearance() -> None:
    body = make_record(num_devices=4, num_rounds=3, attackers=1)
    body["rounds"][2] |= {"outcome": "rolled_back", "reason": "worse"}
    assert events(record_of(body)) == [
        ("turned away: norm_too_large", [60.0, 120.0, 180.0]),
        ("killed", [90.0]),
        ("round rolled_back", [120.0]),
        ("aggregator_killed", [200.5]),
    ]
