"""Figures by matplotlib as SVG that is part of a page: it takes its colours from the page's style sheet.

matplotlib knows no CSS variables, so a colour is drawn as a stand-in that no plot uses otherwise (#0000XX),
and replaced in the SVG's text. The page then shows one drawing in light and dark. The same figure gives the
same text.
"""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

ROLES = ("ink", "muted", "line", "accent", "band", "bad", "paper")
NUM_SERIES = 20  # colours of the style sheet, --s0 and so on: as many as it tells apart
SMALL = (5.6, 3.2)  # inches, half of a page's width
WIDE = (11.4, 2.9)
TIME_UNITS = (
    (180.0, 1.0, "s"),
    (3 * 3600.0, 60.0, "min"),
    (4 * 86400.0, 3600.0, "h"),
    (0.0, 86400.0, "days"),
)
BYTE_UNITS = ((2e6, 1e3, "kB"), (2e9, 1e6, "MB"), (2e12, 1e9, "GB"), (0.0, 1e12, "TB"))


def role(name: str) -> str:
    """The stand-in of a colour of the page: a role above."""
    return f"#0000{ROLES.index(name) + 1:02x}"


def series_color(i: int) -> str:
    """The stand-in of the colour of the i-th of several things."""
    return f"#0000{0x40 + i % NUM_SERIES:02x}"


class Drawing:
    """A figure under way, its axes, and once it is left, its `svg`."""

    def __init__(self, figure: Figure, axes: Any) -> None:
        self.figure, self.axes, self.svg = figure, axes, ""


@contextmanager
def drawing(
    name: str, size: tuple[float, float] = SMALL, rows: int = 1, columns: int = 1
) -> Iterator[Drawing]:
    """A figure in the page's style; `name` makes the ids in it different from those of other figures."""
    style = _style() | {"svg.hashsalt": name}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        drawn = Drawing(figure, figure.subplots(rows, columns))
        yield drawn
        file = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    drawn.svg = _for_a_page(file.getvalue(), name)


def scale(largest: float, units: Sequence[tuple[float, float, str]]) -> tuple[float, str]:
    """The divisor and the name of the unit in which numbers up to `largest` are read most easily."""
    return next(((size, unit) for below, size, unit in units if largest < below), units[-1][1:])


def whole_numbers(axis: Any) -> None:
    axis.set_major_locator(MaxNLocator(nbins=10, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))


def _style() -> dict[Any, Any]:
    ink, muted, line = role("ink"), role("muted"), role("line")
    return {
        "svg.fonttype": "none",  # text stays text; the page's own font is put in its place
        "text.parse_math": False,  # a dollar in a name is a dollar
        "font.family": ["DejaVu Sans"],
        "font.size": 9.5,
        "text.color": ink,
        "axes.labelcolor": muted,
        "axes.edgecolor": line,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.axisbelow": True,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "axes.titlecolor": ink,
        "grid.color": line,
        "grid.linewidth": 0.7,
        "xtick.color": line,
        "ytick.color": line,
        "xtick.labelcolor": muted,
        "ytick.labelcolor": muted,
        "lines.solid_capstyle": "round",
        "path.simplify_threshold": 0.3,
    }


def _for_a_page(text: str, name: str) -> str:
    """The svg element alone, as large as its place, without ids that nothing refers to."""
    described = f'<svg role="img" aria-label="{name.replace("-", " ")}"'
    text = text[text.index("<svg") :].replace("<svg", described, 1)
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'<style type="text/css">.*?</style>', "", text, count=1, flags=re.DOTALL)
    text = re.sub(r'(<svg [^>]*?)height="[^"]*" (.*?)width="[^"]*" ', r"\1\2", text, count=1)
    text = re.sub(r'<g id="\w+">', "<g>", text)
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
    return re.sub(r"#0000([0-9a-f]{2})", _variable, text).strip()


def _variable(found: re.Match[str]) -> str:
    number = int(found[1], 16)
    if 0x40 <= number < 0x40 + NUM_SERIES:
        return f"var(--s{number - 0x40})"
    return f"var(--{ROLES[number - 1] if 0 < number <= len(ROLES) else 'ink'})"
