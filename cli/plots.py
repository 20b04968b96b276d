"""The picture of a training: accuracy and loss by round, phones thin, the global model thick. matplotlib."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from fedfer.cli.reports import MAX_PHONE_COLUMNS, RoundReport
from fedfer.model.labels import NUM_LABELS

GLOBAL_COLOR = "#1a1a1a"
PHONE_COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7")  # Okabe & Ito: told apart by colour-blind eyes
CROWD_COLOR = "#8fb3cc"
GUESSING_COLOR = "#999999"
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
}


def draw_curves(path: Path, reports: Sequence[RoundReport], title: str, held_out: str) -> None:
    """Writes a PNG of two panels; `held_out` says what the global model was measured on."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 4.4), dpi=150, layout="constrained")
        accuracy, loss = figure.subplots(1, 2)
        _draw_panel(accuracy, reports, "accuracy", held_out, guessing=1 / NUM_LABELS)
        _draw_panel(loss, reports, "loss", held_out, guessing=math.log(NUM_LABELS))
        accuracy.set_ylim(-0.02, 1.04)
        accuracy.yaxis.set_major_formatter(PercentFormatter(1))
        accuracy.set_title("Accuracy")
        loss.set_ylim(bottom=0)
        loss.set_title("Loss (cross-entropy, nats)")
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
        handles, labels = accuracy.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
        figure.savefig(path)


def _draw_panel(
    axes: Any, reports: Sequence[RoundReport], measure: str, held_out: str, guessing: float
) -> None:
    names = sorted({phone.name for report in reports for phone in report.phones}, key=lambda n: (len(n), n))
    few = len(names) <= MAX_PHONE_COLUMNS
    for place, name in enumerate(names):
        points = [(r.round, getattr(p, measure)) for r in reports for p in r.phones if p.name == name]
        label = f"{name}, on its own images" if few else f"{len(names)} phones, on their own images"
        axes.plot(
            *zip(*points, strict=True),
            color=PHONE_COLORS[place] if few else CROWD_COLOR,
            linewidth=1.2 if few else 0.8,
            marker="o",
            markersize=3 if few else 2,
            label=label if few or place == 0 else None,
        )
    known = [(r.round, getattr(r, measure)) for r in reports if getattr(r, measure) is not None]
    if known:
        axes.plot(
            *zip(*known, strict=True),
            color=GLOBAL_COLOR,
            linewidth=3,
            marker="o",
            markersize=6,
            label=f"global model, on {held_out}",
        )
    axes.axhline(
        guessing, color=GUESSING_COLOR, linewidth=1, linestyle=(0, (4, 3)), label="guessing", zorder=1
    )
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
