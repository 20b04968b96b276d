"""Watching an aggregator's rounds over its HTTP API (docs/protocol.md), and telling a terminal of them."""

import hashlib
import sys
import time
from collections.abc import Callable
from typing import Any

import httpx

from fedfer.cli.reports import PhoneReport, RoundReport, parse_round, table_header, table_row
from fedfer.cli.table import column_widths, format_row
from fedfer.model.errors import FedferError

POLL_SEC = 0.3
RUN = "/v1/runs/default"  # what `fedfer serve MODEL.tflite` calls its run
MAX_FAILED_POLLS = 20  # in a row; meanwhile a server that died is found out by `check`


class Screen:
    """Lines that stay, and on a terminal one line below them that tells what is happening now."""

    def __init__(self) -> None:
        self._live = sys.stdout.isatty()

    def line(self, text: str = "") -> None:
        print(f"\r\x1b[K{text}" if self._live else text, flush=True)

    def now(self, text: str) -> None:
        if self._live:
            print(f"\r\x1b[K{text}", end="", flush=True)


class RoundTable:
    """The table of rounds, printed a row at a time; columns are as wide as a usual row needs."""

    def __init__(self, screen: Screen, phone_names: list[str]) -> None:
        self._screen, self._names = screen, phone_names
        phones = tuple(PhoneReport(name, 1, 10.0, 1.0, None, 0) for name in phone_names)
        wide = RoundReport(0, 1000.0, 1000 * 10**6, 1000 * 10**6, 10.0, 1.0, phones)
        header = table_header(phone_names)
        self._widths = column_widths(header, [table_row(wide, phone_names)])
        screen.line(format_row(header, self._widths))

    def add(self, report: RoundReport) -> None:
        self._screen.line(format_row(table_row(report, self._names), self._widths))


class Aggregator:
    """Reads from an aggregator's API. `check` is called between attempts: it raises when the server is known
    to have died."""

    def __init__(self, url: str, check: Callable[[], None]) -> None:
        self._client = httpx.Client(base_url=url, timeout=30.0, trust_env=False)
        self.check = check

    def get_json(self, path: str) -> Any:
        return self._get(path).json()

    def get_weights(self, sha256: str) -> bytes:
        """A version's checkpoint. Raises FedferError unless it is what its name says."""
        data = self._get(f"/v1/weights/{sha256}").content
        if hashlib.sha256(data).hexdigest() != sha256:
            raise FedferError(f"the aggregator gave other bytes than those of weights {sha256}")
        return data

    def _get(self, path: str) -> httpx.Response:
        for failures in range(1, MAX_FAILED_POLLS + 1):
            self.check()
            try:
                return self._client.get(path).raise_for_status()
            except httpx.HTTPError as error:
                if failures == MAX_FAILED_POLLS:
                    raise FedferError(f"the aggregator does not answer GET {path}: {error}") from None
                time.sleep(POLL_SEC)
        raise AssertionError("unreachable")

    def __enter__(self) -> "Aggregator":
        return self

    def __exit__(self, *error: object) -> None:
        self._client.close()


def watch_rounds(
    aggregator: Aggregator, num_phones: int, table: RoundTable, screen: Screen
) -> tuple[list[RoundReport], str]:
    """Follows the training to its end; returns all rounds and the sha256 of the final weights."""
    reports: list[RoundReport] = []
    while True:
        status = aggregator.get_json(RUN)
        rounds = aggregator.get_json(f"{RUN}/rounds")["rounds"]
        for body in rounds[len(reports) :]:
            if body["phase"] != "done":
                screen.now(describe_open(body, status["num_rounds"], num_phones))
                break
            reports.append(parse_round(body))
            table.add(reports[-1])
        if status["state"] == "finished" and len(reports) == len(rounds):
            screen.now("")
            return reports, status["weights"]
        time.sleep(POLL_SEC)


def describe_open(body: dict[str, Any], num_rounds: int, num_phones: int) -> str:
    """What a round that is under way waits for."""
    if body["phase"] == "aggregating":
        return f"round {body['round']} of {num_rounds}: averaging and evaluating"
    reported = len(body["updates"])
    return f"round {body['round']} of {num_rounds}: training, {reported} of {num_phones} phones have reported"
