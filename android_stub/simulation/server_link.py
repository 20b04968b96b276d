"""The orchestrator's line to a simulated aggregator: HTTP calls that carry the virtual time they are made at.

Beside the calls of docs/protocol.md a simulated aggregator (`fedfer.cli.simulated_server`) has one more,
`POST /simulation/settle`: it lets deadlines have their effect, waits until no round is being averaged, and
says where the run stands. So nothing happens in the server while virtual time stands still.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx

from fedfer.android_stub.backoff import RetryPolicy
from fedfer.android_stub.cache import Cache
from fedfer.android_stub.client import AggregatorClient
from fedfer.android_stub.connection import Connection, Retrying, open_http
from fedfer.android_stub.fields import Fields
from fedfer.model.errors import FedferError

TIME_HEADER = "Fedfer-Simulated-Time"  # seconds since the epoch
START = datetime(2026, 1, 1, tzinfo=UTC)  # of every simulation: the same scenario has the same stamps
SETTLE_SEC = 900.0  # averaging and evaluating may take as long


@dataclass(frozen=True)
class Standing:
    """Where the run stands. `deadline_sec`: until the open round's, None while it has not begun."""

    state: str
    round: int
    phase: str
    num_clients: int
    num_updates: int
    is_async: bool
    deadline_sec: float | None
    weights: str
    stop_reason: str | None
    stop_text: str | None

    @property
    def is_over(self) -> bool:
        return self.state in ("finished", "stopped")


class ServerLink:
    """One server; `check` raises when it is known to have died, `on_pause` is told of calls that failed."""

    def __init__(self, url: str, cache: Cache, run: str, on_pause: Callable[[str], None]) -> None:
        self._http: httpx.Client = open_http(url, read_timeout_sec=SETTLE_SEC)
        self._cache, self._on_pause = cache, on_pause
        self.run = run
        self._own = self._connection("simulation")

    def at(self, now_sec: float, clock_offset_sec: float = 0.0) -> None:
        """All calls from now on are made at this virtual time, by a device whose clock is so much ahead: its
        requests say when they were made by that clock, and nobody believes them."""
        self._http.headers[TIME_HEADER] = repr(START.timestamp() + now_sec)
        date = START + timedelta(seconds=now_sec + clock_offset_sec)
        self._http.headers["Date"] = format_datetime(date, usegmt=True)

    def client(self, name: str, token: str | None = None) -> AggregatorClient:
        """A device's conversation."""
        connection = self._connection(name)
        connection.token = token
        return AggregatorClient(connection, self._cache)

    def settle(self) -> Standing:
        """Raises RefusedError, ServerUnreachableError."""
        return _standing(self._own.call("POST", "/simulation/settle"))

    def round(self, number: int) -> Fields:
        """What became of a round, as docs/protocol.md has it."""
        return self._own.call("GET", f"/v1/runs/{self.run}/rounds/{number}")

    def close(self) -> None:
        self._http.close()

    def _connection(self, name: str) -> Connection:
        retrying = Retrying(
            policy=RetryPolicy(),
            rng=random.Random(name),
            clock=time.monotonic,
            sleep=time.sleep,
            on_pause=lambda text: self._on_pause(f"{name}: {text}"),
        )
        return Connection(self._http, retrying)


def _standing(fields: Fields) -> Standing:
    """Raises FedferError when the round cannot be closed."""
    if (problem := fields.optional_text("problem")) is not None:
        raise FedferError(f"the aggregator cannot close the round: {problem}", code="round_failed")
    return Standing(
        state=fields.word("state"),
        round=fields.integer("round", 0, 10**9),
        phase=fields.word("phase"),
        num_clients=fields.integer("num_clients", 1, 10**9),
        num_updates=fields.integer("num_updates", 0, 10**9),
        is_async=fields.flag("is_async"),
        deadline_sec=fields.optional_number("deadline_sec", -1e12, 1e12),
        weights=fields.digest("weights"),
        stop_reason=fields.optional_text("stop_reason"),
        stop_text=fields.optional_text("stop_text"),
    )
