"""What a record says, as numbers to draw and to tabulate. Pure.

Where devices are averaged, an update counts by its number of examples, as in federated averaging; updates
that were turned away do not count.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np

from fedfer.cli.simulation_report.record import Device, Record, Round, Update

FEW_UPDATES = 10  # with fewer, a band shows all of them; with more, the middle four fifths
LEVELS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995)


@dataclass(frozen=True)
class Point:
    """A version measured on the held-out images; time and bytes (up and down) are what it took to get it."""

    round: int
    virtual_sec: float
    bytes: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class Band:
    """The devices' own measures in a round: weighted mean, and the range from `low` to `high`."""

    round: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Spread:
    """How a number is distributed over devices: lowest, 10 %, median, 90 %, highest, mean."""

    lowest: float
    tenth: float
    median: float
    ninetieth: float
    highest: float
    mean: float


def points(record: Record) -> tuple[Point, ...]:
    """The rounds whose version was measured."""
    sums = accumulate(each.bytes_up + each.bytes_down for each in record.rounds)
    return tuple(
        Point(each.round, each.closed_sec, total, each.loss, each.accuracy)
        for each, total in zip(record.rounds, sums, strict=True)
        if each.loss is not None and each.accuracy is not None
    )


def best(found: Sequence[Point]) -> Point | None:
    """The first of the most accurate versions."""
    return max(found, key=lambda point: point.accuracy, default=None)


def reached(found: Sequence[Point], accuracy: float) -> Point | None:
    """The first version that is so accurate."""
    return next((point for point in found if point.accuracy >= accuracy), None)


def wanted(record: Record) -> float | None:
    """The accuracy that the scenario asks for, reached or not; None if for none."""
    if record.target is not None:
        return record.target.accuracy
    value = record.scenario.get("target_accuracy")
    if isinstance(value, bool) or not isinstance(value, float | int):
        return None
    return float(value) if 0 < value <= 1 else None


def milestones(found: Sequence[Point], target: float | None = None) -> list[tuple[float, Point]]:
    """When each level of accuracy was reached first: those that training brought, the target among them."""
    levels = sorted({*LEVELS, *([target] if target else [])})
    start = found[0].accuracy if found else 0.0
    pairs = [(level, reached(found, level)) for level in levels if level > start]
    return [(level, point) for level, point in pairs if point is not None]


def band(rounds: Sequence[Round], measure: str) -> tuple[Band, ...]:
    """Devices' `measure` ("loss" or "accuracy") by round."""
    found = []
    for each in rounds:
        taken = [(getattr(u, measure), u.num_examples) for u in accepted(each)]
        values = [(float(value), max(1, weight)) for value, weight in taken if value is not None]
        if values:
            numbers, weights = np.array(values).T
            low, high = np.quantile(numbers, (0.1, 0.9) if len(numbers) >= FEW_UPDATES else (0, 1))
            found.append(Band(each.round, float(np.average(numbers, weights=weights)), low, high))
    return tuple(found)


def accepted(each: Round) -> tuple[Update, ...]:
    return tuple(update for update in each.updates if update.code is None)


def refusals(record: Record) -> dict[str, int]:
    """How often the aggregator turned something away, by code, the most frequent first: uploads that it
    refused, and updates that its gates held back when the round closed."""
    gates = Counter(u.code for each in record.rounds for u in each.updates if u.code is not None)
    counts = {code: max(gates[code], record.refusals.get(code, 0)) for code in {*gates, *record.refusals}}
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


@dataclass(frozen=True)
class Tally:
    """What became of what a device sent."""

    num_averaged: int
    num_turned_away: int


def tallies(record: Record) -> dict[str, Tally]:
    """By device: updates that went into a version, and those refused as they came or held back by gates."""
    sent = [update for each in record.rounds for update in each.updates]
    averaged = Counter(update.device for update in sent if update.code is None)
    held_back = Counter(update.device for update in sent if update.code is not None)
    return {d.name: Tally(averaged[d.name], held_back[d.name] + d.num_rejected) for d in record.devices}


def last_updates(record: Record) -> dict[str, Update]:
    """Each device's last accepted update, by its name."""
    return {update.device: update for each in record.rounds for update in accepted(each)}


def spread(values: Sequence[float]) -> Spread | None:
    """None for no values."""
    if not values:
        return None
    cuts = np.quantile(np.array(values, float), (0, 0.1, 0.5, 0.9, 1))
    lowest, tenth, median, ninetieth, highest = map(float, cuts)
    return Spread(lowest, tenth, median, ninetieth, highest, float(np.mean(values)))


def by_holdings(devices: Sequence[Device]) -> list[Device]:
    """Devices in an order in which those that hold alike stand together: by their most frequent label, then
    by how much of what they hold that is."""

    def key(device: Device) -> tuple[int, float, int]:
        counts = device.label_counts
        most = max(range(len(counts)), key=counts.__getitem__)
        return most, -counts[most] / max(1, sum(counts)), device.index

    return sorted((device for device in devices if device.label_counts), key=key)


def grouped(devices: Sequence[Device], max_groups: int) -> list[list[Device]]:
    """The same devices in at most so many groups of neighbours, as even as can be."""
    num_groups = min(max_groups, len(devices))
    edges = [round(i * len(devices) / num_groups) for i in range(num_groups + 1)] if num_groups else []
    return [list(devices[low:high]) for low, high in pairwise(edges)]


def flat(settings: object, prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as `rounds.num_clients`, `20`; lists of plain values stay one entry."""
    if isinstance(settings, dict):
        pairs = [(f"{prefix}.{key}" if prefix else str(key), value) for key, value in settings.items()]
    elif isinstance(settings, list) and any(isinstance(each, dict | list) for each in settings):
        pairs = [(f"{prefix}[{i}]", value) for i, value in enumerate(settings)]
    else:
        return [(prefix, _shown(settings))]
    return [entry for name, value in pairs for entry in flat(value, name)]


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_shown, value)) or "none"
    words = {None: "none", True: "yes", False: "no"}
    return words[value] if value is None or isinstance(value, bool) else str(value)
