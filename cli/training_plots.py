"""The picture of a central training: loss and accuracy by epoch, training and validation. matplotlib."""

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from fedfer.cli.plots import GLOBAL_COLOR, PHONE_COLORS, STYLE


def draw_training(path: Path, history: list[dict[str, Any]], best: int, title: str) -> None:
    """Writes a PNG of two panels; `history` has an entry an epoch, as in the JSON beside it."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 4.4), dpi=150, layout="constrained")
        accuracy, loss = figure.subplots(1, 2)
        epochs = [entry["number"] for entry in history]
        for axes, measure in ((accuracy, "accuracy"), (loss, "loss")):
            for key, label, color in (
                (measure, "training, as seen", PHONE_COLORS[0]),
                (f"validation_{measure}", "validation", GLOBAL_COLOR),
            ):
                axes.plot(epochs, [entry[key] for entry in history], label=label, color=color, linewidth=2)
            axes.axvline(best, color="#999999", linewidth=1, linestyle=(0, (4, 3)), label="best epoch")
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        accuracy.yaxis.set_major_formatter(PercentFormatter(1))
        accuracy.set_title("Accuracy")
        loss.set_title("Loss (nats)")
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
        handles, labels = accuracy.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
        figure.savefig(path)
