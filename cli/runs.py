"""Show the runs of an aggregator; pause, resume or stop one.

Example: fedfer runs pause default --admin-key-file admin.key
"""

import argparse
import json
from typing import Any

from fedfer.cli import operator_api
from fedfer.cli.operator_api import objects, printable, quoted, short
from fedfer.cli.table import format_table
from fedfer.model.errors import UsageError

HELP = "show the runs of an aggregator; pause, resume, stop one"
ACTIONS = ("list", "show", "pause", "resume", "stop")
HEADER = ("run", "state", "round", "of", "updates in", "rejected", "newest", "best", "model")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("action", nargs="?", choices=ACTIONS, default="list", help="what to do; stop is for good")
    add("run_name", nargs="?", metavar="RUN", help="name of the run; not for list")
    operator_api.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Raises FedferError."""
    if (args.run_name is None) != (args.action == "list"):
        expected = "no run" if args.action == "list" else "a run"
        raise UsageError(f"expected {expected} after `{args.action}`; see fedfer runs --help")
    with operator_api.connected(args) as api:
        if args.action == "list":
            body = api.get("/v1/runs")
            rows = objects(body, "runs")
        else:
            path = f"/v1/runs/{quoted(args.run_name)}"
            body = api.get(path) if args.action == "show" else api.post(f"{path}/{args.action}")
            rows = [body]
    if args.json:
        print(json.dumps(body, indent=2))
    elif args.action == "show":
        print("\n".join(f"{name}: {_value(value)}" for name, value in body.items()))
    else:
        print(format_table(HEADER, [_row(row) for row in rows], num_left=2))
        for row in rows:
            if row.get("waits_for"):
                print(f"{printable(row.get('run'))} waits for {printable(row['waits_for'])}")
    return 0


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    """The cells of a run; what this version of the server does not say is `-`."""
    state, reason = printable(row.get("state")), row.get("stop_reason")
    return (
        printable(row.get("run")),
        f"{state} ({printable(reason)})" if reason else state,
        printable(row.get("round")),
        printable(row.get("num_rounds")),
        printable(row.get("num_updates")),
        printable(row.get("num_rejected")),
        short(row.get("weights")),
        short(row.get("best_weights")),
        short(row.get("model")),
    )


def _value(value: object) -> str:
    return json.dumps(value) if isinstance(value, dict | list) else printable(value)
