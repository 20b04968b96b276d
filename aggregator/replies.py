"""The JSON that the aggregator takes and gives, as docs/protocol.md has it."""

import math
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from fedfer.aggregator.config import RUN_NAME, RoundSettings
from fedfer.aggregator.rounds import Phase, WaitReason
from fedfer.aggregator.run_files import settings_json
from fedfer.aggregator.run_store import RunState, StopReason
from fedfer.aggregator.runs import Run, Work

Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
Token = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,256}$")]
DeviceName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
RunName = Annotated[str, StringConstraints(pattern=RUN_NAME)]


class ErrorBody(BaseModel):
    code: str
    reason: str


class ErrorReply(BaseModel):
    error: ErrorBody


class EnrolRequest(BaseModel):
    name: DeviceName
    contract: Sha256 | None = None
    token: Token | None = Field(None, description="The last token, to go on as the same device.")


class EnrolReply(BaseModel):
    device_id: str
    token: str = Field(description="Shown once; the server keeps only its sha256.")
    token_expires_at: str


class WorkRequest(BaseModel):
    run: RunName | None = None


class TrainReply(BaseModel):
    action: Literal["train"] = "train"
    run: str
    round: int
    model: Sha256
    weights: Sha256
    contract: Sha256
    local_epochs: int
    batch_size: int
    learning_rate: float
    deadline_sec: float = Field(description="Seconds left until the round's deadline.")


class WaitReply(BaseModel):
    action: Literal["wait"] = "wait"
    run: str
    retry_after_sec: float
    reason: WaitReason


class StopReply(BaseModel):
    action: Literal["stop"] = "stop"
    run: str
    reason: StopReason
    weights: Sha256


WorkReply = Annotated[TrainReply | WaitReply | StopReply, Field(discriminator="action")]


class ReceiptReply(BaseModel):
    update: Sha256
    run: str
    round: int
    num_examples: int
    received_bytes: int


class UpdateReply(BaseModel):
    device_id: str
    device_name: str
    update: Sha256
    num_examples: int
    loss: float
    accuracy: float
    train_sec: float | None
    received_bytes: int


class RoundReply(BaseModel):
    run: str
    round: int
    phase: Phase
    base_weights: Sha256 | None
    result_weights: Sha256 | None
    num_clients: int
    min_clients: int
    opened_at: str
    closed_at: str | None
    duration_sec: float | None
    updates: list[UpdateReply]
    bytes_up: int
    bytes_down: int
    train_loss: float | None
    train_accuracy: float | None
    holdout_loss: float | None
    holdout_accuracy: float | None


class RoundsReply(BaseModel):
    rounds: list[RoundReply]


class NewRun(BaseModel):
    """`weights`: a version of any run to start from, instead of those in the model file."""

    model_config = ConfigDict(extra="forbid")
    name: RunName
    model: Sha256
    weights: Sha256 | None = None
    settings: dict[str, Any] = {}


class RunReply(BaseModel):
    run: str
    state: RunState
    stop_reason: StopReason | None
    model: Sha256
    contract: Sha256
    round: int
    num_rounds: int
    weights: Sha256 = Field(description="The newest version.")
    holdout_examples: int
    settings: dict[str, Any]


class RunsReply(BaseModel):
    runs: list[RunReply]
    num_devices: int


class HealthReply(BaseModel):
    status: Literal["ok"] = "ok"


class ReadyReply(BaseModel):
    ready: bool
    problems: dict[str, str] = Field(description="What is wrong, by database, disk, files, bucket, closing.")


def work_reply(work: Work, retry_after_sec: float) -> TrainReply | WaitReply | StopReply:
    """What a device is told to do."""
    run, round_, settings = work.run, work.round_, work.round_.settings
    if work.final_weights is not None:
        return StopReply(run=run.name, reason=run.stop_reason or "operator", weights=work.final_weights)
    if work.wait_reason is not None:
        return WaitReply(run=run.name, retry_after_sec=retry_after_sec, reason=work.wait_reason)
    rate = settings.learning_rate
    return TrainReply(
        run=run.name,
        round=round_.number,
        model=run.model,
        weights=round_.base_weights,
        contract=run.contract.digest,
        local_epochs=settings.local_epochs,
        batch_size=settings.batch_size,
        learning_rate=run.contract.training.learning_rate if rate is None else rate,
        deadline_sec=round(max(0.0, round_.deadline_at - run.clock()), 3),
    )


def run_reply(run: Run) -> RunReply:
    """Where a run stands."""
    return RunReply(
        run=run.name,
        state=run.state,
        stop_reason=run.stop_reason,
        model=run.model,
        contract=run.contract.digest,
        round=run.round_.number,
        num_rounds=run.settings.num_rounds,
        weights=run.newest_weights,
        holdout_examples=run.holdout_examples,
        settings=settings_json(run.settings),
    )


def round_reply(row: dict[str, Any]) -> RoundReply:
    """A round from the columns that `RoundStore.rows` gives."""
    updates = [
        UpdateReply(update=sent["sha256"], **{k: v for k, v in sent.items() if k in UpdateReply.model_fields})
        for sent in row["updates"]
    ]
    settings = RoundSettings(**row["settings"]) if row["settings"] else None
    closed_at = row["closed_at"]
    return RoundReply(
        **{key: row[key] for key in row.keys() & _SAME_NAMES},
        round=row["number"],
        num_clients=settings.num_clients if settings else 0,
        min_clients=settings.required_clients if settings else 0,
        opened_at=iso(row["opened_at"]),
        closed_at=None if closed_at is None else iso(closed_at),
        duration_sec=None if closed_at is None else round(closed_at - row["opened_at"], 3),
        updates=updates,
        bytes_up=sum(sent.received_bytes for sent in updates),
        train_loss=_weighted([(sent.loss, sent.num_examples) for sent in updates]),
        train_accuracy=_weighted([(sent.accuracy, sent.num_examples) for sent in updates]),
    )


_SAME_NAMES = {
    "run",
    "phase",
    "base_weights",
    "result_weights",
    "bytes_down",
    "holdout_loss",
    "holdout_accuracy",
}


def _weighted(values: list[tuple[float, int]]) -> float | None:
    """Mean of (value, num_examples) pairs, None without any; the same whatever their order."""
    if not values:
        return None
    return math.fsum(value * count for value, count in values) / sum(count for _, count in values)


def iso(seconds: float) -> str:
    """A moment, in seconds since the epoch, as the protocol writes it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
