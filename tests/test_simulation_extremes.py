"""Records at the ends of what is taken: their pages are made all the same, without a warning."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from page_reader import Page
from simulation_records import make_record

from fedfer.cli.simulation_report.comparison import Run
from fedfer.cli.simulation_report.comparison_page import render_comparison
from fedfer.cli.simulation_report.page import render_report
from fedfer.cli.simulation_report.record import parse_record

MOST = 2**53
Body = dict[str, Any]


def huge(body: Body) -> None:
    """Every number as large as it may be."""
    body["virtual_sec"] = 1e12
    for each in body["rounds"]:
        each |= {"loss": 1e30, "opened_sec": 1e12, "closed_sec": 1e12, "wall_sec": 1e12}
        each |= {"bytes_up": MOST, "bytes_down": MOST}
        for update in each["updates"]:
            update |= {"loss": -1e30, "accuracy": 1e30, "num_examples": MOST, "train_sec": 1e12}
    for device in body["devices"]:
        device |= {"busy_sec": 1e12, "sent_bytes": MOST, "received_bytes": MOST, "num_tasks": MOST}
        device |= {"num_examples": MOST, "label_counts": [MOST] * 7}


def zero(body: Body) -> None:
    """Nothing was measured to be anything, nobody holds anything, and no time passed."""
    body["virtual_sec"] = 0.0
    for each in body["rounds"]:
        each |= {"loss": 0.0, "accuracy": 0.0, "opened_sec": 0.0, "closed_sec": 0.0}
        for update in each["updates"]:
            update |= {"loss": 0.0, "accuracy": 0.0, "num_examples": 0}
    for device in body["devices"]:
        device |= {"busy_sec": 0.0, "sent_bytes": 0, "num_examples": 0, "label_counts": [0] * 7}


def no_labels(body: Body) -> None:
    body["model"]["labels"] = []
    for device in body["devices"]:
        device["label_counts"] = []
    body["final"]["measures"] |= {"per_class_recall": [], "confusion": []}


def perfect(body: Body) -> None:
    for each in body["rounds"]:
        each |= {"loss": 1e-30, "accuracy": 1.0}


def nearly_perfect(body: Body) -> None:
    for each in body["rounds"]:
        each["accuracy"] = 1 - 1e-15


def far_apart(body: Body) -> None:
    """Rounds with numbers that no run gets to, and faults long after the end."""
    for i, each in enumerate(body["rounds"]):
        each["round"] = i * 2**50
    body["faults"][0]["at_sec"] = 1e12


def nested(body: Body) -> None:
    """A scenario 40 levels deep."""
    inner: object = 1
    for _ in range(20):
        inner = [{"a": inner}]
    body["scenario"] = {"a": inner}


@pytest.mark.parametrize("change", [huge, zero, no_labels, perfect, nearly_perfect, far_apart, nested])
def test_a_page_is_made_of_it(change: Callable[[Body], None]) -> None:
    body = make_record(num_devices=3, num_rounds=3, attackers=1)
    change(body)
    record = parse_record(json.dumps(body).encode(), "record.json")
    assert "A made-up run" in Page(render_report(record)).text
    assert "simulations side by side" in Page(render_comparison([Run("a", record)] * 2, 0.5)).text
