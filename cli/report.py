"""Write the report of a simulation from its record, again: one HTML file that needs nothing else.

Example: fedfer report out/record.json --output report.html
"""

import argparse
from pathlib import Path

from fedfer.model.errors import UsageError

HELP = "write a simulation's report from its record"
REPORT_NAME = "report.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("record", type=Path, help="record.json of fedfer simulate, or the folder that holds it")
    add("--output", type=Path, metavar="FILE", help=f"the page; {REPORT_NAME} beside the record if not given")


def run(args: argparse.Namespace) -> int:
    """Raises DataError, StoreError, UsageError."""
    try:
        from fedfer.cli.simulation_report.page import write_report
        from fedfer.cli.simulation_report.record import read_record
    except ImportError as error:
        raise UsageError(f"this command needs a package ({error}); pip install 'fedfer[plot]'") from None
    folder = args.record if args.record.is_dir() else args.record.parent
    place = args.output or folder / REPORT_NAME
    write_report(place, read_record(args.record))
    print(f"wrote {place}, {place.stat().st_size:,} bytes")
    return 0
