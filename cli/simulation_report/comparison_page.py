"""Simulations side by side as one HTML file: overlaid curves, a table, the settings that differ."""

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from fedfer.cli.simulation_report import comparison, series
from fedfer.cli.simulation_report.comparison import Run
from fedfer.cli.simulation_report.figures import MAX_MARKED, measure_axis
from fedfer.cli.simulation_report.page import render, write_page
from fedfer.cli.simulation_report.svg import (
    BYTE_UNITS,
    TIME_UNITS,
    drawing,
    scale,
    series_color,
    whole_numbers,
)
from fedfer.cli.simulation_report.words import percent

AXES = {"round": "round", "bytes": "up and down", "virtual_sec": "virtual time"}


def write_comparison(path: Path, runs: Sequence[Run], target: float | None) -> None:
    """Writes the page. `target`: the accuracy that is asked for. Raises StoreError."""
    write_page(path, render_comparison(runs, target))


def render_comparison(runs: Sequence[Run], target: float | None) -> str:
    """The page as HTML."""
    outcomes = [comparison.outcome(run, target) for run in runs]
    return render(
        "comparison.html.jinja",
        title=f"{len(runs)} simulations side by side",
        runs=runs,
        table=comparison.table(outcomes, target),
        differences=comparison.differences(runs),
        recall=recall(runs),
        colours=[(f"var(--s{i})", run.name) for i, run in enumerate(runs)],
        figures={
            "accuracy": Markup(overlay(runs, "accuracy", "round", target)),
            "loss": Markup(overlay(runs, "loss", "round", None)),
            "bytes": Markup(overlay(runs, "accuracy", "bytes", target)),
            "time": Markup(overlay(runs, "accuracy", "virtual_sec", target)),
        },
    )


def overlay(runs: Sequence[Run], measure: str, against: str, target: float | None) -> str:
    """The runs' "accuracy" or "loss" on held-out images against "round", "bytes" or "virtual_sec"."""
    curves = [series.points(run.record) for run in runs]
    largest = max((getattr(point, against) for curve in curves for point in curve), default=0)
    size, unit = (1.0, "") if against == "round" else scale(largest, UNITS[against])
    with drawing(f"{measure}-against-{against}") as drawn:
        for i, curve in enumerate(curves):
            x = [getattr(point, against) / size for point in curve]
            marker = "o" if len(curve) <= MAX_MARKED else None
            y = [getattr(point, measure) for point in curve]
            drawn.axes.plot(x, y, color=series_color(i), linewidth=2, marker=marker, markersize=3)
        measure_axis(drawn.axes, measure, target)
        drawn.axes.set_xlabel(f"{AXES[against]}{', ' if unit else ''}{unit}")
        if against == "round":
            whole_numbers(drawn.axes.xaxis)
    return drawn.svg


def recall(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """Label, and its recall in each run; no rows unless all have the same labels."""
    labels = {run.record.model.labels for run in runs}
    measures = [run.record.final.measures for run in runs]
    if len(labels) != 1:
        return []
    shares = [each.per_class_recall if each else () for each in measures]
    if not any(shares):
        return []
    return [
        (label, *(percent(found[k]) if found else "-" for found in shares))
        for k, label in enumerate(labels.pop())
    ]


UNITS = {"bytes": BYTE_UNITS, "virtual_sec": TIME_UNITS}
