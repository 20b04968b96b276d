"""Put simulations side by side: a table, and with --output a page of overlaid curves.

Example: fedfer compare mnist-iid mnist-shards --target-accuracy 0.95 --output compare.html
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from fedfer.cli.table import format_table
from fedfer.model.errors import UsageError

if TYPE_CHECKING:
    from fedfer.cli.simulation_report.comparison import Run

HELP = "put simulations side by side"
MAX_CELL_CHARS = 40  # of a setting, in the terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("records", nargs="+", type=Path, metavar="RECORD", help="record.json, or the folder that holds it")
    add(
        "--target-accuracy",
        type=float,
        metavar="SHARE",
        help="what it took to be so accurate, a share of 1; the highest target of the records if not given",
    )
    add("--output", type=Path, metavar="FILE", help="also write a page (HTML) with overlaid curves")
    add("--json", action="store_true", help="print JSON for programs")


def run(args: argparse.Namespace) -> int:
    """Raises DataError, StoreError, UsageError."""
    target = args.target_accuracy
    if target is not None and not 0 < target <= 1:
        raise UsageError(f"expected --target-accuracy above 0, at most 1; received {target}")
    try:
        from fedfer.cli.simulation_report import comparison
        from fedfer.cli.simulation_report.comparison_page import write_comparison
        from fedfer.cli.simulation_report.record import read_record
    except ImportError as error:
        raise UsageError(f"this command needs a package ({error}); pip install 'fedfer[plot]'") from None
    runs = comparison.named(args.records, [read_record(path) for path in args.records])
    if target is None:
        target = comparison.wanted_accuracy(runs)
    print(as_json(runs, target) if args.json else as_text(runs, target))
    if args.output:
        write_comparison(args.output, runs, target)
        if not args.json:
            print(f"\nwrote {args.output}, {args.output.stat().st_size:,} bytes")
    return 0


def as_json(runs: "list[Run]", target: float | None) -> str:
    """For programs: outcomes, and settings that differ."""
    from fedfer.cli.simulation_report import comparison

    outcomes = [asdict(comparison.outcome(run, target)) for run in runs]
    body = {"target_accuracy": target, "runs": outcomes, "differences": comparison.differences(runs)}
    return json.dumps(body, indent=2, allow_nan=False)


def as_text(runs: "list[Run]", target: float | None) -> str:
    """For people; what comes from records is without control characters."""
    from fedfer.cli.simulation_report import comparison

    header, rows = comparison.table([comparison.outcome(run, target) for run in runs], target)
    lines = [format_table(header, [[_cell(cell) for cell in row] for row in rows])]
    if found := comparison.differences(runs):
        names = [_cell(run.name) for run in runs]
        rows_of_settings = [[_cell(name), *map(_cell, values)] for name, values in found.items()]
        lines += ["", format_table(["setting that differs", *names], rows_of_settings, num_left=1)]
    return "\n".join(lines)


def _cell(text: str) -> str:
    plain = "".join(char if char.isprintable() else " " for char in text)
    return plain if len(plain) <= MAX_CELL_CHARS else f"{plain[: MAX_CELL_CHARS - 3]}..."
