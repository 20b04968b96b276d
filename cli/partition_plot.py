"""The picture of who holds what: images by label, device by device. matplotlib.

Stacked bars for up to 100 devices and 10 labels, else a map of each device's label mix, sorted by the label
that is commonest on it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from fedfer.cli.plots import STYLE

# Paul Tol's "muted" scheme: ten colours that colour-blind eyes tell apart (personal.sron.nl/~pault).
LABEL_COLORS = (
    "#332288",
    "#88ccee",
    "#117733",
    "#ddcc77",
    "#cc6677",
    "#44aa99",
    "#882255",
    "#999933",
    "#aa4499",
    "#bbbbbb",
)
MAX_BARS = 100
MAX_COLUMNS = 1000  # of the map: more devices are drawn as means of neighbours
SEPARATED_BARS = 40  # up to so many, white lines part the labels
INK = "#1a1a1a"
Counts = NDArray[np.integer[Any]]


def draw_partition(target: Path | BinaryIO, counts: Counts, labels: Sequence[str], title: str) -> None:
    """Writes a PNG; `counts` int (num_devices, num_labels), `labels` a name for each column."""
    num_devices, num_labels = counts.shape
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 4.6), dpi=150, layout="constrained")
        if num_devices <= MAX_BARS and num_labels <= len(LABEL_COLORS):
            _draw_bars(figure, counts, labels)
        else:
            _draw_map(figure, counts, labels)
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
        figure.savefig(target, format="png")


def _draw_bars(figure: Any, counts: Counts, labels: Sequence[str]) -> None:
    axes = figure.subplots()
    devices, bottom = np.arange(len(counts)), np.zeros(len(counts), np.int64)
    separated = len(counts) <= SEPARATED_BARS
    for label, color, height in zip(labels, LABEL_COLORS, counts.T, strict=False):
        style = {"edgecolor": "white", "linewidth": 0.6} if separated else {"linewidth": 0}
        axes.bar(devices, height, 0.86 if separated else 0.94, bottom, color=color, label=label, **style)
        bottom += height
    axes.set_xlim(-0.6, len(counts) - 0.4)
    axes.set_xlabel("device")
    axes.set_ylabel("images")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=21, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    # From top to bottom as the labels are stacked.
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles[::-1], names[::-1], loc="outside right upper", frameon=False)


def _draw_map(figure: Any, counts: Counts, labels: Sequence[str]) -> None:
    """Above, how many images each device holds; below, how they spread over the labels."""
    order = sorted_devices(counts)
    held = counts[order]
    shares = _columns(held / np.maximum(held.sum(axis=1, keepdims=True), 1))
    sizes, mix = figure.subplots(2, 1, sharex=True, height_ratios=(1, 3))
    extent = (0, len(counts), len(labels) - 0.5, -0.5)
    sizes.fill_between(
        np.linspace(0, len(counts), len(shares) + 1),
        np.append(sums := _columns(held.sum(axis=1, keepdims=True))[:, 0], sums[-1]),
        step="post",
        color=INK,
        linewidth=0,
    )
    sizes.set_ylim(bottom=0)
    sizes.set_ylabel("images")
    sizes.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
    sizes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    image = mix.imshow(
        shares.T, aspect="auto", extent=extent, cmap="cividis", vmin=0, vmax=1, interpolation="nearest"
    )
    mix.grid(visible=False)
    shown = np.unique(np.linspace(0, len(labels) - 1, min(len(labels), 20)).round().astype(int))
    mix.set_yticks(shown, [labels[place] for place in shown])
    mix.set_xlabel("devices, sorted by their commonest label and its share")
    mix.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    figure.colorbar(image, ax=mix, label="share of the device's images", format="{x:.0%}", pad=0.01)


def describe_partition(counts: Counts) -> str:
    """One line: devices, and how many images and labels they hold, from the fewest to the most."""
    sizes, kinds = counts.sum(axis=1), (counts > 0).sum(axis=1)

    def spread(values: Counts) -> str:
        least, most = int(values.min()), int(values.max())
        return f"{least:,}" if least == most else f"{least:,} to {most:,}"

    return f"{len(counts):,} devices with {spread(sizes)} images of {spread(kinds)} labels each"


def sorted_devices(counts: Counts) -> NDArray[np.intp]:
    """Places of the devices by their commonest label, within one by its share, falling."""
    commonest = counts.argmax(axis=1)
    share = counts.max(axis=1) / np.maximum(counts.sum(axis=1), 1)
    order: NDArray[np.intp] = np.lexsort((-share, commonest))
    return order


def _columns(values: NDArray[Any]) -> NDArray[np.float64]:
    """At most MAX_COLUMNS rows: means of neighbours, if there are more."""
    if len(values) <= MAX_COLUMNS:
        return values.astype(np.float64)
    return np.array([group.mean(axis=0) for group in np.array_split(values, MAX_COLUMNS)])
