"""The calls of docs/protocol.md as a device makes them: one method a call, checked dataclasses back.

Every call is retried as `connection` says, and raises RefusedError or ServerUnreachableError in the end.
"""

from pathlib import Path

from fedfer.android_stub.cache import Cache
from fedfer.android_stub.connection import Connection
from fedfer.android_stub.download import fetch
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
from fedfer.android_stub.upload import Sending, Update
from fedfer.export.contract import MAX_MODEL_BYTES


class AggregatorClient:
    """One device's conversation with its aggregator. `enrol` comes first; it keeps the token."""

    def __init__(self, connection: Connection, cache: Cache, enrol_key: str | None = None) -> None:
        self.connection = connection
        self._cache = cache
        self._enrol_key = enrol_key

    def enrol(self, name: str, contract: str | None = None) -> Enrolment:
        """POST /v1/devices; with the last token, if there was one, to go on as the same device."""
        body = {"name": name, "contract": contract}
        if self.connection.token is not None:
            body["token"] = self.connection.token
        headers = {} if self._enrol_key is None else {"Authorization": f"Bearer {self._enrol_key}"}
        self.connection.token = None
        reply = self.connection.call("POST", "/v1/devices", json=body, headers=headers)
        enrolment = parse_enrolment(reply)
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
        """PUT /v1/runs/{run}/rounds/{round}/update; the same body gets the same receipt again. After a cut
        only what is missing is sent."""
        path = f"/v1/runs/{run}/rounds/{round_number}/update"
        sending = Sending(self.connection, path, update)
        return parse_receipt(self.connection.retry(f"PUT {path}", sending.attempt))

    def round_result(self, run: str, round_number: int) -> RoundResult:
        """GET /v1/runs/{run}/rounds/{round}."""
        return parse_round(self.connection.call("GET", f"/v1/runs/{run}/rounds/{round_number}"))

    def run_status(self, run: str) -> RunStatus:
        """GET /v1/runs/{run}."""
        return parse_run_status(self.connection.call("GET", f"/v1/runs/{run}"))
