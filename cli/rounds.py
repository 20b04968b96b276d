"""Show the rounds of a run, or one of them with its updates.

Example: fedfer rounds default 3
"""

import argparse
import json
import textwrap
from typing import Any

from fedfer.cli import operator_api
from fedfer.cli.operator_api import measure, objects, only_run, printable, quoted, short
from fedfer.cli.table import format_table, megabytes

HELP = "show the rounds of a run, or one with its updates"
HEADER = (
    "round",
    "phase",
    "updates",
    "loss",
    "accuracy",
    "held out: loss",
    "accuracy",
    "seconds",
    "MB up",
    "MB down",
    "result",
)
MAX_WIDTH = 100  # of reasons, which have lines of their own
UPDATE_HEADER = ("device", "update", "examples", "loss", "accuracy", "train sec", "MB")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run_name", nargs="?", metavar="RUN", help="name of the run; not needed if the server has one")
    add("round", nargs="?", type=int, metavar="N", help="number of a round, to see its updates")
    operator_api.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Raises FedferError."""
    with operator_api.connected(args) as api:
        path = f"/v1/runs/{quoted(args.run_name) if args.run_name else only_run(api)}/rounds"
        body = api.get(path if args.round is None else f"{path}/{args.round}")
    if args.json:
        print(json.dumps(body, indent=2))
        return 0
    print(_table(objects(body, "rounds")) if args.round is None else one_round(body))
    return 0


def one_round(row: dict[str, Any]) -> str:
    """A round with how it ended and its updates, below each why it was turned away if it was, and below all
    which uploads were refused when they came."""
    updates = objects(row, "updates")
    header, *lines = format_table(UPDATE_HEADER, [_update(sent) for sent in updates], num_left=2).split("\n")
    shown = [_table([row])]
    if row.get("outcome") is not None:
        shown += _explained(f"outcome: {printable(row['outcome'])}", row.get("reason"))
    shown += ["", header]
    for sent, line in zip(updates, lines, strict=True):
        shown.append(line)
        if sent.get("code") is not None:
            shown += _explained(f"  turned away: {printable(sent['code'])}", sent.get("reason"))
    for refused in objects(row, "refusals"):
        name, code, times = (printable(refused.get(key)) for key in ("device_name", "code", "times"))
        often = "" if times == "1" else f" ({times} times)"
        shown += _explained(f"refused when it came, from {name}{often}: {code}", refused.get("reason"))
    return "\n".join(shown)


def _explained(what: str, reason: object) -> list[str]:
    """Lines that are indented below their first."""
    text = what if reason is None else f"{what}: {printable(reason)}"
    return textwrap.wrap(text, MAX_WIDTH, subsequent_indent="    ", break_on_hyphens=False)


def _table(rows: list[dict[str, Any]]) -> str:
    return format_table(HEADER, [_row(row) for row in rows], num_left=2)


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    wanted = printable(row.get("num_clients"))
    return (
        printable(row.get("round")),
        printable(row.get("phase")),
        f"{len(objects(row, 'updates'))} of {wanted}",
        measure(row.get("train_loss")),
        measure(row.get("train_accuracy")),
        measure(row.get("holdout_loss")),
        measure(row.get("holdout_accuracy")),
        measure(row.get("duration_sec"), 1),
        _megabytes(row.get("bytes_up")),
        _megabytes(row.get("bytes_down")),
        short(row.get("result_weights")),
    )


def _update(sent: dict[str, Any]) -> tuple[str, ...]:
    return (
        printable(sent.get("device_name")),
        short(sent.get("update")),
        printable(sent.get("num_examples")),
        measure(sent.get("loss")),
        measure(sent.get("accuracy")),
        measure(sent.get("train_sec"), 1),
        _megabytes(sent.get("received_bytes")),
    )


def _megabytes(value: object) -> str:
    return megabytes(value) if isinstance(value, int) else printable(value)
