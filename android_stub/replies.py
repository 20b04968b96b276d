"""What an aggregator answers, as checked dataclasses: one per reply of docs/protocol.md.

A server is as untrusted as anything on the network: every field is checked for presence, type and
range, and whatever does not fit raises RefusedError with code `bad_reply`. Unknown fields are ignored,
so that a newer server can add some.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from fedfer.model.errors import RefusedError

MAX_LOCAL_EPOCHS = 10_000
MAX_BATCH_SIZE = 1_000_000
MAX_NUM_EXAMPLES = 1_000_000
MAX_ROUND = 10_000_000
MAX_UPDATE_BYTES = 2**40
MAX_WAIT_SEC = 3600.0

_DIGEST = re.compile(r"[0-9a-f]{64}")
_WORD = re.compile(r"[A-Za-z0-9._~+/=-]{1,256}")


@dataclass(frozen=True)
class Enrolment:
    """Answer to POST /v1/devices. `token` is a secret: never printed."""

    device_id: str
    token: str
    model: str
    contract: str


@dataclass(frozen=True)
class Train:
    """Work: restore version `weights` into `model`, train as said, upload before `deadline_sec` are over."""

    round: int
    model: str
    weights: str
    contract: str
    local_epochs: int
    batch_size: int
    learning_rate: float
    deadline_sec: float


@dataclass(frozen=True)
class Wait:
    retry_after_sec: float
    reason: str


@dataclass(frozen=True)
class Stop:
    """Training is over; `weights` is the final version."""

    reason: str
    weights: str


Work = Train | Wait | Stop


@dataclass(frozen=True)
class Receipt:
    """The update is durable on the server and counted."""

    update: str
    round: int
    num_examples: int
    received_bytes: int


@dataclass(frozen=True)
class RoundResult:
    """What became of a round; measures are None until known, or without a holdout set."""

    round: int
    phase: str
    base_weights: str | None
    result_weights: str | None
    num_updates: int
    holdout_loss: float | None
    holdout_accuracy: float | None


@dataclass(frozen=True)
class Status:
    model: str
    contract: str
    phase: str
    round: int
    num_rounds: int
    weights: str


class Fields:
    """A JSON object whose fields are read with their type and range. Each reader raises RefusedError."""

    def __init__(self, data: bytes | dict[str, Any], status: int) -> None:
        """Raises RefusedError (`bad_reply`) unless `data` is one JSON object of finite numbers."""
        self._status = status
        try:
            body = json.loads(data, parse_constant=_no_constant) if isinstance(data, bytes) else data
        except (ValueError, RecursionError):
            raise self._bad("its body is not JSON") from None
        if not isinstance(body, dict):
            raise self._bad("its body is not a JSON object")
        self._body = body

    def object(self, name: str) -> "Fields":
        value = self._body.get(name)
        if not isinstance(value, dict):
            raise self._bad(f"`{name}` is not an object")
        return Fields(value, self._status)

    def text(self, name: str) -> str:
        value = self._body.get(name)
        if not isinstance(value, str):
            raise self._bad(f"`{name}` is not text")
        return value

    def digest(self, name: str) -> str:
        return self._matching(name, _DIGEST, "a sha256 in lower-case hex")

    def optional_digest(self, name: str) -> str | None:
        return None if self._body.get(name) is None else self.digest(name)

    def word(self, name: str) -> str:
        return self._matching(name, _WORD, "1 to 256 letters, digits or any of . _ ~ + / = -")

    def integer(self, name: str, low: int, high: int) -> int:
        value = self._body.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self._bad(f"`{name}` is not a whole number in {low}..{high}")
        return value

    def number(self, name: str, low: float, high: float) -> float:
        value = self._body.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise self._bad(f"`{name}` is not a number in {low:g}..{high:g}")
        return float(value)

    def optional_number(self, name: str, low: float, high: float) -> float | None:
        return None if self._body.get(name) is None else self.number(name, low, high)

    def length(self, name: str) -> int:
        value = self._body.get(name)
        if not isinstance(value, list):
            raise self._bad(f"`{name}` is not a list")
        return len(value)

    def unknown(self, name: str) -> RefusedError:
        """The error for a value of `name` that the protocol does not have."""
        return self._bad(f"`{name}` is none of those in docs/protocol.md")

    def _matching(self, name: str, pattern: re.Pattern[str], expected: str) -> str:
        value = self.text(name)
        if not pattern.fullmatch(value):
            raise self._bad(f"`{name}` is not {expected}")
        return value

    def _bad(self, why: str) -> RefusedError:
        return bad_reply(why, self._status)


def bad_reply(why: str, status: int) -> RefusedError:
    """The error for an answer that is not one of docs/protocol.md."""
    return RefusedError(
        f"the server's answer (HTTP {status}) cannot be used: {why}; "
        "expected a fedfer aggregator that speaks docs/protocol.md, version 1",
        code="bad_reply",
        status=status,
    )


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def parse_enrolment(fields: Fields) -> Enrolment:
    return Enrolment(
        fields.word("device_id"), fields.word("token"), fields.digest("model"), fields.digest("contract")
    )


def parse_work(fields: Fields) -> Work:
    match fields.word("action"):
        case "train":
            return Train(
                round=fields.integer("round", 1, MAX_ROUND),
                model=fields.digest("model"),
                weights=fields.digest("weights"),
                contract=fields.digest("contract"),
                local_epochs=fields.integer("local_epochs", 1, MAX_LOCAL_EPOCHS),
                batch_size=fields.integer("batch_size", 1, MAX_BATCH_SIZE),
                learning_rate=fields.number("learning_rate", 0.0, 1e6),
                deadline_sec=fields.number("deadline_sec", -1e9, 1e9),
            )
        case "wait":
            return Wait(fields.number("retry_after_sec", 0.0, MAX_WAIT_SEC), fields.word("reason"))
        case "stop":
            return Stop(fields.word("reason"), fields.digest("weights"))
    raise fields.unknown("action")


def parse_receipt(fields: Fields) -> Receipt:
    return Receipt(
        update=fields.digest("update"),
        round=fields.integer("round", 1, MAX_ROUND),
        num_examples=fields.integer("num_examples", 1, MAX_NUM_EXAMPLES),
        received_bytes=fields.integer("received_bytes", 1, MAX_UPDATE_BYTES),
    )


def parse_round(fields: Fields) -> RoundResult:
    return RoundResult(
        round=fields.integer("round", 0, MAX_ROUND),
        phase=fields.word("phase"),
        base_weights=fields.optional_digest("base_weights"),
        result_weights=fields.optional_digest("result_weights"),
        num_updates=fields.length("updates"),
        holdout_loss=fields.optional_number("holdout_loss", 0.0, 1e30),
        holdout_accuracy=fields.optional_number("holdout_accuracy", 0.0, 1.0),
    )


def parse_status(fields: Fields) -> Status:
    return Status(
        model=fields.digest("model"),
        contract=fields.digest("contract"),
        phase=fields.word("phase"),
        round=fields.integer("round", 0, MAX_ROUND),
        num_rounds=fields.integer("num_rounds", 0, MAX_ROUND),
        weights=fields.digest("weights"),
    )
