"""What an aggregator tells of its rounds, as rows for people (table), spreadsheets and programs (JSON).

Phones' loss and accuracy are means over their own images in the last local epoch, as they trained;
the global model's are on held-out images after the round. Round 0 is the initial model.
"""

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedfer.cli.table import decimal, megabytes, percent

MAX_PHONE_COLUMNS = 4


@dataclass(frozen=True)
class PhoneReport:
    """One phone's update in one round."""

    name: str
    num_examples: int
    loss: float
    accuracy: float
    train_sec: float | None
    received_bytes: int


@dataclass(frozen=True)
class RoundReport:
    """One finished round; `phones` by name. Global measures are None without a holdout set."""

    round: int
    duration_sec: float | None
    bytes_up: int
    bytes_down: int
    loss: float | None
    accuracy: float | None
    phones: tuple[PhoneReport, ...]


def parse_round(body: dict[str, Any]) -> RoundReport:
    """A round as `GET /v1/runs/{run}/rounds` gives it (docs/protocol.md)."""
    phones = [
        PhoneReport(
            name=update["device_name"],
            num_examples=update["num_examples"],
            loss=update["loss"],
            accuracy=update["accuracy"],
            train_sec=update.get("train_sec"),
            received_bytes=update["received_bytes"],
        )
        for update in body["updates"]
    ]
    return RoundReport(
        round=body["round"],
        duration_sec=body["duration_sec"],
        bytes_up=body["bytes_up"],
        bytes_down=body["bytes_down"],
        loss=body["holdout_loss"],
        accuracy=body["holdout_accuracy"],
        phones=tuple(sorted(phones, key=lambda phone: (len(phone.name), phone.name))),
    )


def table_header(phone_names: Sequence[str]) -> list[str]:
    """Columns of the table of rounds: one a phone while they are few, else mean and range over all."""
    few = len(phone_names) <= MAX_PHONE_COLUMNS
    phones = list(phone_names) if few else [f"{len(phone_names)} phones, mean", "lowest to highest"]
    return ["round", *phones, "global, held out", "seconds", "MB up", "MB down"]


def table_row(report: RoundReport, phone_names: Sequence[str]) -> list[str]:
    """One round under `table_header`; measures are `loss accuracy`, `-` for a phone that sent nothing."""
    if len(phone_names) <= MAX_PHONE_COLUMNS:
        by_name = {phone.name: phone for phone in report.phones}
        cells = [
            _measures(by_name[name].loss, by_name[name].accuracy) if name in by_name else "-"
            for name in phone_names
        ]
    else:
        cells = _summary_cells(report.phones)
    if not report.phones:
        return [str(report.round), *cells, _measures(report.loss, report.accuracy), "-", "-", "-"]
    return [
        str(report.round),
        *cells,
        _measures(report.loss, report.accuracy),
        decimal(report.duration_sec, 1),
        megabytes(report.bytes_up),
        megabytes(report.bytes_down),
    ]


def _summary_cells(phones: Sequence[PhoneReport]) -> list[str]:
    if not phones:
        return ["-", "-"]
    losses, accuracies = [phone.loss for phone in phones], [phone.accuracy for phone in phones]
    total = sum(phone.num_examples for phone in phones)
    mean_loss = sum(phone.loss * phone.num_examples for phone in phones) / total
    mean_accuracy = sum(phone.accuracy * phone.num_examples for phone in phones) / total
    spread = f"{min(losses):.2f}-{max(losses):.2f} {min(accuracies):.0%}-{max(accuracies):.0%}"
    return [_measures(mean_loss, mean_accuracy), spread]


def _measures(loss: float | None, accuracy: float | None) -> str:
    return f"{decimal(loss)} {percent(accuracy):>4}"


def write_csv(path: Path, reports: Sequence[RoundReport]) -> None:
    """One row for each phone and for the global model in each round."""
    columns = ["round", "who", "num_examples", "loss", "accuracy", "seconds", "bytes_up", "bytes_down"]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for report in reports:
            for phone in report.phones:
                measures = [phone.num_examples, phone.loss, phone.accuracy, phone.train_sec]
                writer.writerow([report.round, phone.name, *measures, phone.received_bytes, None])
            traffic = [report.duration_sec, report.bytes_up, report.bytes_down]
            writer.writerow([report.round, "global", None, report.loss, report.accuracy, *traffic])


def write_json(path: Path, reports: Sequence[RoundReport], **more: Any) -> None:
    """All rounds, with `more` entries beside them."""
    body = {**more, "rounds": [asdict(report) for report in reports]}
    path.write_text(json.dumps(body, indent=2, allow_nan=False) + "\n")
