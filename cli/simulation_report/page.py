"""A record as one HTML file that needs nothing else: no script, no font, no picture from anywhere.

Jinja escapes everything that comes from a record; the figures are SVG made here. The same record gives the
same bytes.
"""

import contextlib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from fedfer.cli.simulation_report import figures, series, views
from fedfer.cli.simulation_report.record import Record
from fedfer.cli.simulation_report.svg import NUM_SERIES
from fedfer.model.errors import StoreError

MOSTLY_RIGHT = 0.9  # from this accuracy on, what is left is drawn too
HERE = Path(__file__).parent


def write_report(path: Path, record: Record) -> None:
    """Writes the report of a simulation. Raises StoreError."""
    write_page(path, render_report(record))


def render_report(record: Record) -> str:
    """The report as HTML."""
    return render(
        "report.html.jinja",
        title=record.title or record.name,
        record=record,
        lead=views.lead(record),
        target=series.wanted(record),
        key_figures=views.cards(record),
        figures={name: Markup(draw(record)) for name, draw in FIGURES.items()},
        milestones=views.milestone_table(record),
        rounds=views.round_table(record),
        recall=views.recall_rows(record),
        confusion=views.confusion_rows(record),
        confusions=views.confusions_table(record),
        label_colours=[(f"var(--s{i % NUM_SERIES})", label) for i, label in enumerate(record.model.labels)],
        spreads=views.spread_table(record),
        attacks=views.attack_table(record),
        devices=views.device_table(record),
        refusals=views.refusal_table(record),
        faults=views.fault_table(record),
        settings=series.flat(record.scenario),
        model=series.flat({name: getattr(record.model, name) for name in MODEL_ENTRIES}),
    )


def render(template: str, **context: Any) -> str:
    """A page of this folder's templates, with the style sheet in it."""
    css = Markup((HERE / "style.css").read_text())
    return ENVIRONMENT.get_template(template).render(css=css, version=version("fedfer"), **context)


def write_page(path: Path, text: str) -> None:
    """Writes a page, whole or not at all. Raises StoreError."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StoreError(f"cannot write {path}: {error.strerror}") from None


def _curve(measure: str) -> Callable[[Record], str]:
    def draw(record: Record) -> str:
        found, bands = series.points(record), series.band(record.rounds, measure)
        target = series.wanted(record)
        return figures.curve(measure, found, bands, target) if found or bands else ""

    return draw


def _against(what: str) -> Callable[[Record], str]:
    def draw(record: Record) -> str:
        found = series.points(record)
        target = series.wanted(record)
        return figures.accuracy_against(what, found, target) if found else ""

    return draw


def _errors(record: Record) -> str:
    found = series.points(record)
    return figures.errors(found) if any(MOSTLY_RIGHT <= each.accuracy < 1 for each in found) else ""


def _holdings(record: Record) -> str:
    held = any(sum(device.label_counts) for device in record.devices)
    return figures.holdings(record.devices, len(record.model.labels)) if held else ""


def _distributions(record: Record) -> str:
    return figures.distributions(record) if record.devices else ""


def _timeline(record: Record) -> str:
    return figures.timeline(record) if figures.events(record) else ""


FIGURES: dict[str, Callable[[Record], str]] = {
    "accuracy": _curve("accuracy"),
    "loss": _curve("loss"),
    "bytes": _against("bytes"),
    "time": _against("virtual_sec"),
    "errors": _errors,
    "holdings": _holdings,
    "distributions": _distributions,
    "timeline": _timeline,
}
MODEL_ENTRIES = ("name", "num_parameters", "num_bytes", "checkpoint_bytes", "sha256", "contract", "labels")
ENVIRONMENT = Environment(
    loader=FileSystemLoader(HERE),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
