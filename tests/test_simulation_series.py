"""What is made of a record: curves, milestones, spreads, groups; by numbers done by hand."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulation_records import make_record

from fedfer.cli.simulation_report import series, views, words
from fedfer.cli.simulation_report.record import Device, Record, Round, Update, parse_record
from fedfer.cli.simulation_report.series import Band, Point


def record_of(**more: Any) -> Record:
    return parse_record(json.dumps(make_record(**more)).encode(), "record.json")


def a_round(number: int, *updates: Update, **more: Any) -> Round:
    return Round(number, 0.0, 1.0, 0.0, "committed", updates=updates, **more)


def device(index: int, *counts: int) -> Device:
    return Device(f"phone-{index}", index, sum(counts), counts)


def test_points_add_up_bytes_and_leave_out_what_was_not_measured() -> None:
    body = make_record(num_devices=2, num_rounds=2)
    body["rounds"][1]["accuracy"] = None
    record = parse_record(json.dumps(body).encode(), "record.json")
    # A round of two devices: 2 MB up, 2 MB and 2 kB down.
    assert [(p.round, p.virtual_sec, p.bytes) for p in series.points(record)] == [
        (0, 0.0, 0),
        (2, 120.0, 8_004_000),
    ]


POINTS = (
    Point(0, 0.0, 0, 2.0, 0.25),
    Point(1, 5.0, 10, 1.0, 0.55),
    Point(2, 9.0, 20, 0.9, 0.52),
    Point(3, 15.0, 30, 0.8, 0.55),
)


def test_milestones_are_first_times_and_only_what_training_brought() -> None:
    """0.2 was there from the start; 0.6 was never reached."""
    assert series.milestones(POINTS, 0.53) == [
        (0.3, POINTS[1]),
        (0.4, POINTS[1]),
        (0.5, POINTS[1]),
        (0.53, POINTS[1]),
    ]
    assert series.best(POINTS) == POINTS[1]
    assert series.reached(POINTS, 0.56) is None
    assert (series.milestones([]), series.best([])) == ([], None)


def test_a_band_is_a_weighted_mean_and_a_range_of_what_was_taken() -> None:
    rounds = [
        a_round(0),
        a_round(
            1,
            Update("a", 30, 1.0, 0.5),
            Update("b", 10, 2.0, 0.1),
            Update("liar", 1000, 9.0, 1.0, code="norm_too_large"),
            Update("c", 10, None, None),
        ),
    ]
    (found,) = series.band(rounds, "accuracy")
    assert found.mean == pytest.approx(0.4)
    assert (found.low, found.high) == (0.1, 0.5)
    assert series.band(rounds, "loss") == (Band(1, 1.25, 1.0, 2.0),)


def test_of_many_updates_the_middle_four_fifths() -> None:
    rounds = [a_round(1, *(Update(f"d{i}", 1, float(i), 0.0) for i in range(11)))]
    assert series.band(rounds, "loss") == (Band(1, 5.0, 1.0, 9.0),)


def test_an_update_of_no_examples_is_still_an_update() -> None:
    assert series.band([a_round(1, Update("a", 0, 1.0, 0.5))], "loss") == (Band(1, 1.0, 1.0, 1.0),)


def test_refusals_by_code_most_frequent_first() -> None:
    """Three rounds, one attacker; phone-1 was late once."""
    record = record_of(num_devices=4, num_rounds=3, attackers=1)
    assert list(series.refusals(record).items()) == [("norm_too_large", 3), ("round_over", 1)]
    assert series.refusals(record_of(num_devices=4, num_rounds=3, attackers=1, refusals={})) == {
        "norm_too_large": 3
    }


def test_what_became_of_a_devices_updates() -> None:
    tallies = series.tallies(record_of(num_devices=5, num_rounds=3, attackers=1))
    assert tallies["phone-0"] == series.Tally(3, 0)
    assert tallies["phone-1"] == series.Tally(3, 1)  # late once
    assert tallies["phone-4"] == series.Tally(0, 4)  # and held back three times


def test_spread_by_hand() -> None:
    found = series.spread([float(i) for i in range(11)])
    assert found == series.Spread(0.0, 1.0, 5.0, 9.0, 10.0, 5.0)
    assert series.spread([]) is None


def test_devices_that_hold_alike_stand_together() -> None:
    devices = [device(0, 1, 9), device(1, 9, 1), device(2, 0, 5), device(3, 6, 4), device(4)]
    assert [d.index for d in series.by_holdings(devices)] == [1, 3, 2, 0]


@given(st.integers(0, 300), st.integers(1, 160))
def test_groups_are_even_and_leave_nobody_out(num_devices: int, max_groups: int) -> None:
    devices = [device(i, 1) for i in range(num_devices)]
    groups = series.grouped(devices, max_groups)
    assert [d for group in groups for d in group] == devices
    assert len(groups) == min(num_devices, max_groups)
    assert not groups or max(map(len, groups)) - min(map(len, groups)) <= 1


def test_settings_laid_flat() -> None:
    settings = {
        "seed": 7,
        "run": {"strategy": {"name": "fedavg"}, "over": None, "on": True},
        "profiles": [{"name": "mid", "windows": [[0, 5], [6, 7]]}],
        "labels": ["a", "b"],
        "empty": [],
    }
    assert series.flat(settings) == [
        ("seed", "7"),
        ("run.strategy.name", "fedavg"),
        ("run.over", "none"),
        ("run.on", "yes"),
        ("profiles[0].name", "mid"),
        ("profiles[0].windows[0]", "0, 5"),
        ("profiles[0].windows[1]", "6, 7"),
        ("labels", "a, b"),
        ("empty", "none"),
    ]


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (1234, "1.23 kB"),
        (20_415_548, "20.4 MB"),
        (123_456_789, "123 MB"),
        (5e9, "5.00 GB"),
        (1.5e15, "1500 TB"),
    ],
)
def test_sizes(num_bytes: float, text: str) -> None:
    assert words.size(num_bytes) == text


def test_numbers_in_words() -> None:
    assert (words.percent(0.9124), words.percent(0.99033, 10_000), words.percent(None)) == (
        "91.2%",
        "99.03%",
        "-",
    )
    assert (words.percent_short(0.8), words.percent_short(0.995)) == ("80%", "99.5%")
    assert (words.measure(0.12345), words.measure(12345.6), words.measure(None)) == (
        "0.1235",
        "1.235e+04",
        "-",
    )
    assert (words.seconds(3.21), words.seconds(61), words.seconds(None)) == ("3.2 s", "1 min 1 s", "-")
    assert (words.plural(1, "device"), words.plural(1000, "device")) == ("1 device", "1,000 devices")


def test_key_figures() -> None:
    cards = {card.name: card for card in views.cards(record_of(num_devices=10, num_rounds=20, attackers=2))}
    assert cards["rounds"].figure == "20"
    assert cards["80% reached"].figure == "round 8"
    assert cards["80% reached"].note == "after 8 min and 160 MB"
    assert cards["virtual time"].figure == "20 min"
    assert cards["up, all devices"] == views.Card("up, all devices", "200 MB", "10.0 MB a round")
    assert cards["updates averaged"].figure == "160"
    assert cards["updates averaged"].note == "43 turned away, 5 tasks not finished"


def test_the_mean_of_the_last_versions_is_a_key_figure() -> None:
    measures = {**make_record()["final"]["measures"], "accuracy": 0.5, "loss": 1.25}
    mean = {"weights": "d" * 64, "rounds": [3, 4, 6], "measures": measures}
    cards = {card.name: card for card in views.cards(record_of(num_rounds=6, mean=mean))}
    assert cards["accuracy of the mean"].figure == "50.0%"
    assert cards["accuracy of the mean"].note == "of the last 3 versions; loss 1.2500"
    without = views.cards(record_of(mean={**mean, "measures": None}))
    assert "accuracy of the mean" not in {card.name for card in without}


def test_a_target_that_was_missed() -> None:
    record = record_of(num_rounds=2, target=None, scenario={"target_accuracy": 0.95})
    (card,) = (card for card in views.cards(record) if card.name == "95% reached")
    assert card.figure == "no"


def test_attackers_beside_the_others() -> None:
    header, rows = views.attack_table(record_of(num_devices=10, num_rounds=3, attackers=2))
    assert header == ("attack", "devices", "updates averaged", "turned away")
    assert rows == [("sign_flip", "2", "0", "6"), ("none: honest", "8", "24", "3")]
    assert views.attack_table(record_of())[1] == []


def test_of_many_devices_those_that_something_was_amiss_with() -> None:
    record = record_of(num_devices=150, num_rounds=2, attackers=20)
    _, rows = views.device_table(record)
    assert len(rows) == views.MAX_DEVICES
    assert [row[1] for row in rows[:21]] == ["sign_flip"] * 20 + [""]


def test_confusions_by_hand() -> None:
    record = record_of(num_rounds=1)
    body = make_record(num_rounds=1)
    confusion = [[0] * 7 for _ in range(7)]
    confusion[0] = [5, 3, 0, 0, 0, 0, 0]
    confusion[2] = [0, 0, 1, 4, 0, 0, 0]
    body["final"]["measures"]["confusion"] = confusion
    record = parse_record(json.dumps(body).encode(), "record.json")
    assert views.confusions_table(record)[1] == [("fear", "happy", "4"), ("angry", "disgust", "3")]
    assert views.confusion_rows(record)[0] == ("angry", [(5, 0.625), (3, 0.375), *[(0, 0.0)] * 5])
    assert [images for _, _, images in views.recall_rows(record)] == [8, 0, 5, 0, 0, 0, 0]
