"""What an aggregator answers, as checked dataclasses: one per reply of docs/protocol.md.

Whatever does not fit raises RefusedError with code `bad_reply` (see `fields`). Unknown fields are ignored,
so that a newer server can add some.
"""

from dataclasses import dataclass

from fedfer.android_stub.fields import Fields

MAX_LOCAL_EPOCHS = 10_000
MAX_BATCH_SIZE = 1_000_000
MAX_NUM_EXAMPLES = 1_000_000
MAX_ROUND = 10_000_000
MAX_UPDATE_BYTES = 2**40
MAX_WAIT_SEC = 3600.0


@dataclass(frozen=True)
class Enrolment:
    """Answer to POST /v1/devices. `token` is a secret: never printed."""

    device_id: str
    token: str


@dataclass(frozen=True)
class Train:
    """Work: restore version `weights` into `model`, train as said, upload before `deadline_sec` are over.
    `proximal_mu` above 0 is FedProx's."""

    run: str
    round: int
    model: str
    weights: str
    contract: str
    local_epochs: int
    batch_size: int
    learning_rate: float
    deadline_sec: float
    proximal_mu: float = 0.0


@dataclass(frozen=True)
class Wait:
    run: str
    retry_after_sec: float
    reason: str


@dataclass(frozen=True)
class Stop:
    """The run is over; `weights` is the version that came of it."""

    run: str
    reason: str
    weights: str


Work = Train | Wait | Stop


@dataclass(frozen=True)
class Receipt:
    """The update is durable on the server and counted."""

    update: str
    run: str
    round: int
    num_examples: int
    received_bytes: int


@dataclass(frozen=True)
class RoundResult:
    """What became of a round; measures are None until known, or without a holdout set."""

    run: str
    round: int
    phase: str
    base_weights: str | None
    result_weights: str | None
    num_updates: int
    holdout_loss: float | None
    holdout_accuracy: float | None


@dataclass(frozen=True)
class RunStatus:
    run: str
    state: str
    model: str
    contract: str
    round: int
    phase: str
    num_updates: int
    num_rounds: int
    weights: str


def parse_enrolment(fields: Fields) -> Enrolment:
    return Enrolment(fields.word("device_id"), fields.word("token"))


def parse_work(fields: Fields) -> Work:
    match fields.word("action"):
        case "train":
            return Train(
                run=fields.run("run"),
                round=fields.integer("round", 1, MAX_ROUND),
                model=fields.digest("model"),
                weights=fields.digest("weights"),
                contract=fields.digest("contract"),
                local_epochs=fields.integer("local_epochs", 1, MAX_LOCAL_EPOCHS),
                batch_size=fields.integer("batch_size", 1, MAX_BATCH_SIZE),
                learning_rate=fields.number("learning_rate", 0.0, 1e6),
                deadline_sec=fields.number("deadline_sec", -1e9, 1e9),
                proximal_mu=fields.optional_number("proximal_mu", 0.0, 1e6) or 0.0,
            )
        case "wait":
            return Wait(
                fields.run("run"), fields.number("retry_after_sec", 0.0, MAX_WAIT_SEC), fields.word("reason")
            )
        case "stop":
            return Stop(fields.run("run"), fields.word("reason"), fields.digest("weights"))
    raise fields.unknown("action")


def parse_receipt(fields: Fields) -> Receipt:
    return Receipt(
        update=fields.digest("update"),
        run=fields.run("run"),
        round=fields.integer("round", 1, MAX_ROUND),
        num_examples=fields.integer("num_examples", 1, MAX_NUM_EXAMPLES),
        received_bytes=fields.integer("received_bytes", 1, MAX_UPDATE_BYTES),
    )


def parse_round(fields: Fields) -> RoundResult:
    return RoundResult(
        run=fields.run("run"),
        round=fields.integer("round", 0, MAX_ROUND),
        phase=fields.word("phase"),
        base_weights=fields.optional_digest("base_weights"),
        result_weights=fields.optional_digest("result_weights"),
        num_updates=fields.length("updates"),
        holdout_loss=fields.optional_number("holdout_loss", 0.0, 1e30),
        holdout_accuracy=fields.optional_number("holdout_accuracy", 0.0, 1.0),
    )


def parse_run_status(fields: Fields) -> RunStatus:
    return RunStatus(
        run=fields.run("run"),
        state=fields.word("state"),
        model=fields.digest("model"),
        contract=fields.digest("contract"),
        round=fields.integer("round", 0, MAX_ROUND),
        phase=fields.word("phase"),
        num_updates=fields.integer("num_updates", 0, MAX_ROUND),
        num_rounds=fields.integer("num_rounds", 0, MAX_ROUND),
        weights=fields.digest("weights"),
    )
