"""The calls of docs/protocol.md as a device makes them: one method a call, checked dataclasses back.

Every call is retried as `connection` says, and raises RefusedError or ServerUnreachableError in the end.
"""

import base64
from dataclasses import dataclass
from pathlib import Path

from fedfer.android_stub.cache import Cache
from fedfer.android_stub.connection import Connection
from fedfer.android_stub.download import fetch
from fedfer.android_stub.fields import Fields
from fedfer.android_stub.replies import (
    Enrolment,
    Receipt,
    RoundResult,
    RunStatus,
    Work,
    parse_enrolment,
    parse_receipt,
    parse_round,
    parse_run_status,
    parse_work,
)
from fedfer.export.contract import MAX_MODEL_BYTES


@dataclass(frozen=True)
class Update:
    """A trained checkpoint in a file, and what the server has to know about it."""

    path: Path
    sha256: str
    base_weights: str
    num_examples: int
    loss: float
    accuracy: float
    train_sec: float


class AggregatorClient:
    """One device's conversation with its aggregator. `enrol` comes first; it keeps the token."""

    def __init__(self, connection: Connection, cache: Cache) -> None:
        self.connection = connection
        self._cache = cache

    def enrol(self, name: str, contract: str | None = None) -> Enrolment:
        """POST /v1/devices."""
        self.connection.token = None
        body = {"name": name, "contract": contract}
        enrolment = parse_enrolment(self.connection.call("POST", "/v1/devices", json=body))
        self.connection.token = enrolment.token
        return enrolment

    def ask_for_work(self, run: str | None = None) -> Work:
        """POST /v1/work, in one run or in the one that the server chooses."""
        asked = {} if run is None else {"json": {"run": run}}
        return parse_work(self.connection.call("POST", "/v1/work", **asked))

    def fetch_model(self, digest: str) -> Path:
        """GET /v1/models/{sha256}, unless cached."""
        return fetch(self.connection, self._cache, "models", digest, MAX_MODEL_BYTES)

    def fetch_weights(self, digest: str, max_bytes: int) -> Path:
        """GET /v1/weights/{sha256}, unless cached."""
        return fetch(self.connection, self._cache, "weights", digest, max_bytes)

    def upload_update(self, run: str, round_number: int, update: Update) -> Receipt:
        """PUT /v1/runs/{run}/rounds/{round}/update; the same body gets the same receipt again."""
        path = f"/v1/runs/{run}/rounds/{round_number}/update"
        return parse_receipt(self.connection.retry(f"PUT {path}", lambda _: self._put(path, update)))

    def round_result(self, run: str, round_number: int) -> RoundResult:
        """GET /v1/runs/{run}/rounds/{round}."""
        return parse_round(self.connection.call("GET", f"/v1/runs/{run}/rounds/{round_number}"))

    def run_status(self, run: str) -> RunStatus:
        """GET /v1/runs/{run}."""
        return parse_run_status(self.connection.call("GET", f"/v1/runs/{run}"))

    def _put(self, path: str, update: Update) -> Fields:
        digest = base64.b64encode(bytes.fromhex(update.sha256)).decode()
        headers = {"Content-Type": "application/octet-stream", "Content-Digest": f"sha-256=:{digest}:"}
        query = {
            "base_weights": update.base_weights,
            "num_examples": str(update.num_examples),
            "loss": repr(update.loss),
            "accuracy": repr(update.accuracy),
            "train_sec": f"{update.train_sec:.3f}",
        }
        with update.path.open("rb") as file:  # httpx takes Content-Length from the file
            try:
                return self.connection.attempt("PUT", path, params=query, headers=headers, content=file)
            finally:
                self.connection.sent_bytes += file.tell()
