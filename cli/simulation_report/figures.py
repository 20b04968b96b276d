"""The figures of a simulation's report, as SVG. Every function takes a record, or what series.py made of it.

Text of a record does not get in, but for short words in ASCII: names stand in the page beside the figures.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    PercentFormatter,
)
from numpy.typing import NDArray

from fedfer.cli.simulation_report.record import Device, Record
from fedfer.cli.simulation_report.series import (
    Band,
    Point,
    by_holdings,
    grouped,
    last_updates,
    tallies,
)
from fedfer.cli.simulation_report.svg import (
    BYTE_UNITS,
    TIME_UNITS,
    WIDE,
    drawing,
    role,
    scale,
    series_color,
    whole_numbers,
)

MAX_COLUMNS = 160  # of the plot of who holds what: more are not told apart
NUM_BINS = 24
TIME_BINS = 240
MAX_KINDS = 12
MAX_MARKED = 40  # measured rounds that get a dot each


def curve(measure: str, found: Sequence[Point], bands: Sequence[Band], target: float | None) -> str:
    """Loss or accuracy by round: the global model's, and the devices' own."""
    with drawing(f"{measure}-by-round") as drawn:
        axes = drawn.axes
        if bands:
            rounds = [each.round for each in bands]
            low, high = [each.low for each in bands], [each.high for each in bands]
            axes.fill_between(rounds, low, high, color=role("band"), alpha=0.25, linewidth=0)
            axes.plot(rounds, [each.mean for each in bands], color=role("band"), linewidth=1.4)
        _line(axes, [each.round for each in found], [getattr(each, measure) for each in found])
        measure_axis(axes, measure, target)
        axes.set_xlabel("round")
        whole_numbers(axes.xaxis)
    return drawn.svg


def errors(found: Sequence[Point]) -> str:
    """The share of held-out images that were wrong, by round, on a logarithmic scale."""
    wrong = [(each.round, 1 - each.accuracy) for each in found if each.accuracy < 1]
    with drawing("errors") as drawn:
        _line(drawn.axes, [x for x, _ in wrong], [y for _, y in wrong])
        drawn.axes.set_yscale("log")
        drawn.axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        drawn.axes.set_ylim(top=1)
        drawn.axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g}%"))
        drawn.axes.yaxis.set_minor_formatter(NullFormatter())
        drawn.axes.set_ylabel("wrong")
        drawn.axes.set_xlabel("round")
        drawn.axes.margins(x=0.02)
        whole_numbers(drawn.axes.xaxis)
    return drawn.svg


def accuracy_against(what: str, found: Sequence[Point], target: float | None) -> str:
    """Accuracy against "bytes" (up and down, all devices) or "virtual_sec"."""
    values = [getattr(each, what) for each in found]
    size, unit = scale(max(values, default=0), BYTE_UNITS if what == "bytes" else TIME_UNITS)
    with drawing(f"accuracy-by-{what}") as drawn:
        _line(drawn.axes, [value / size for value in values], [each.accuracy for each in found])
        measure_axis(drawn.axes, "accuracy", target)
        drawn.axes.set_xlabel(f"{unit} up and down" if what == "bytes" else f"virtual time, {unit}")
    return drawn.svg


def holdings(devices: Sequence[Device], num_labels: int) -> str:
    """Who holds what: a column a device (or of neighbours, where there are many), labels stacked."""
    groups = grouped(by_holdings(devices), MAX_COLUMNS)
    counts = np.array([np.mean([d.label_counts for d in group], axis=0) for group in groups])
    edges = np.cumsum([0, *map(len, groups)])
    tops = np.cumsum(counts, axis=1)
    with drawing("holdings", WIDE) as drawn:
        for k in range(num_labels):
            upper = np.append(tops[:, k], tops[-1, k])
            lower = np.append(tops[:, k] - counts[:, k], tops[-1, k] - counts[-1, k])
            drawn.axes.fill_between(edges, lower, upper, step="post", color=series_color(k), linewidth=0)
        if len(groups) == len(devices) <= MAX_COLUMNS / 2:
            drawn.axes.vlines(edges[1:-1], 0, tops[:, -1].max() * 1.02, color=role("paper"), linewidth=1.5)
        drawn.axes.set_xlim(0, edges[-1])
        drawn.axes.set_ylim(0)
        drawn.axes.set_xlabel("devices, those that hold alike side by side")
        drawn.axes.set_ylabel("images")
        whole_numbers(drawn.axes.xaxis)
    return drawn.svg


def distributions(record: Record) -> str:
    """How devices differ: histograms, attackers' part in another colour."""
    last, sent = last_updates(record), tallies(record)
    losses = {name: update.loss for name, update in last.items()}
    accuracies = {name: update.accuracy for name, update in last.items()}
    busy, time_unit = scale(max((d.busy_sec for d in record.devices), default=0), TIME_UNITS)
    sent_size, byte_unit = scale(max((d.sent_bytes for d in record.devices), default=0), BYTE_UNITS)
    panels: list[tuple[str, list[tuple[float, bool]]]] = [
        ("own accuracy, last update", _known(record, accuracies)),
        ("own loss, last update", _known(record, losses)),
        ("examples", [(d.num_examples, d.attack is not None) for d in record.devices]),
        (f"busy, {time_unit}", [(d.busy_sec / busy, d.attack is not None) for d in record.devices]),
        (f"sent, {byte_unit}", [(d.sent_bytes / sent_size, d.attack is not None) for d in record.devices]),
        ("updates averaged", [(sent[d.name].num_averaged, d.attack is not None) for d in record.devices]),
    ]
    with drawing("distributions", (11.4, 4.3), 2, 3) as drawn:
        for axes, (title, values) in zip(drawn.axes.flat, panels, strict=True):
            _histogram(axes, title, values)
        for row in drawn.axes:
            row[0].set_ylabel("devices")
    return drawn.svg


def timeline(record: Record) -> str:
    """Faults, updates turned away and rounds that brought no version, in virtual time, a row each kind."""
    rows = events(record)
    size, unit = scale(record.virtual_sec, TIME_UNITS)
    with drawing("timeline", (11.4, 0.75 + 0.28 * max(1, len(rows)))) as drawn:
        axes = drawn.axes
        if len(record.rounds) <= TIME_BINS / 2:
            ends = [each.closed_sec / size for each in record.rounds]
            axes.vlines(ends, -0.5, len(rows) - 0.5, color=role("line"), linewidth=0.6, zorder=0)
        for place, (_, times) in enumerate(rows):
            x, counts = _binned(np.array(times) / size, record.virtual_sec / size)
            area = 30 + 15 * np.minimum(np.sqrt(counts - 1), 6)
            axes.scatter(
                x, np.full(len(x), place), s=area, color=role("bad"), alpha=0.8, linewidths=0, clip_on=False
            )
        axes.set_yticks(range(len(rows)), [_word(name) for name, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(0, max(record.virtual_sec / size, 1e-9))
        axes.grid(visible=False)
        axes.set_xlabel(f"virtual time, {unit}; lines are ends of rounds")
    return drawn.svg


def events(record: Record) -> list[tuple[str, list[float]]]:
    """Kinds of what went wrong, with their times: the most frequent, in the order of first appearance."""
    found: dict[str, list[float]] = {}
    for fault in record.faults:
        found.setdefault(fault.kind, []).append(fault.at_sec)
    for each in record.rounds:
        for update in each.updates:
            if update.code is not None:
                found.setdefault(f"turned away: {update.code}", []).append(each.closed_sec)
        if each.outcome not in (None, "committed"):
            found.setdefault(f"round {each.outcome}", []).append(each.closed_sec)
    kept = {name for name, _ in Counter({k: len(v) for k, v in found.items()}).most_common(MAX_KINDS)}
    return sorted(
        ((name, times) for name, times in found.items() if name in kept), key=lambda row: min(row[1])
    )


def _line(axes: Any, x: Sequence[float], y: Sequence[float]) -> None:
    marker = "o" if len(x) <= MAX_MARKED else None
    axes.plot(x, y, color=role("accent"), linewidth=2.2, marker=marker, markersize=3.5)


def measure_axis(axes: Any, measure: str, target: float | None) -> None:
    """Accuracy is shown from 0 to 100 %, loss from 0."""
    axes.margins(x=0.02)
    axes.set_ylabel("accuracy" if measure == "accuracy" else "loss, nats")
    if measure == "loss":
        axes.set_ylim(bottom=0)
        return
    axes.set_ylim(0, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    if target is not None:
        axes.axhline(target, color=role("muted"), linewidth=1, linestyle=(0, (4, 3)))


def _histogram(axes: Any, title: str, values: Sequence[tuple[float, bool]]) -> None:
    """Devices by a number, attackers on top of the others; one bar with its number where all are alike."""
    axes.set_title(title)
    numbers = [value for value, _ in values]
    if not numbers:
        return
    low, high = min(numbers), max(numbers)
    alike, pad = low == high, max(abs(low), 1) * 0.05
    edges = np.linspace(low - pad, low + pad, NUM_BINS) if alike else np.linspace(low, high, NUM_BINS + 1)
    honest, attacking = ([v for v, attacks in values if attacks == which] for which in (False, True))
    axes.hist([honest, attacking], edges, stacked=True, color=[role("accent"), role("bad")])
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    axes.xaxis.set_major_locator(FixedLocator([low]) if alike else MaxNLocator(nbins=5))
    if "accuracy" in title:
        axes.xaxis.set_major_formatter(PercentFormatter(1))
    elif alike:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))


def _known(record: Record, values: dict[str, float | None]) -> list[tuple[float, bool]]:
    pairs = [(values.get(device.name), device.attack is not None) for device in record.devices]
    return [(value, attacks) for value, attacks in pairs if value is not None]


def _binned(times: NDArray[np.float64], end: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Times that are too close to be told apart as their mean, and how many each of them stands for."""
    times = np.clip(times, 0, end)
    bins = np.floor(times / max(end, 1e-9) * TIME_BINS)
    _, which, counts = np.unique(bins, return_inverse=True, return_counts=True)
    return np.bincount(which, weights=times) / counts, counts


def _word(text: str) -> str:
    return text[:34].encode("ascii", "replace").decode()
