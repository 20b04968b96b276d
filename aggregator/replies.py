"""The JSON that the aggregator takes and gives, as docs/protocol.md has it."""

import math
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints

from fedfer.aggregator.rounds import Phase, WaitReason
from fedfer.aggregator.service import Service, Work

Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
DeviceName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]


class ErrorBody(BaseModel):
    code: str
    reason: str


class ErrorReply(BaseModel):
    error: ErrorBody


class EnrolRequest(BaseModel):
    name: DeviceName
    contract: Sha256 | None = None


class EnrolReply(BaseModel):
    device_id: str
    token: str = Field(description="Shown once; the server keeps only its sha256.")
    model: Sha256
    contract: Sha256


class TrainReply(BaseModel):
    action: Literal["train"] = "train"
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
    retry_after_sec: float
    reason: WaitReason


class StopReply(BaseModel):
    action: Literal["stop"] = "stop"
    reason: Literal["finished"] = "finished"
    weights: Sha256


WorkReply = Annotated[TrainReply | WaitReply | StopReply, Field(discriminator="action")]


class ReceiptReply(BaseModel):
    update: Sha256
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


class StatusReply(BaseModel):
    model: Sha256
    contract: Sha256
    phase: Literal["running", "finished"]
    round: int
    num_rounds: int
    weights: Sha256
    num_devices: int
    holdout_examples: int


class HealthReply(BaseModel):
    status: Literal["ok"] = "ok"


def work_reply(work: Work, service: Service) -> TrainReply | WaitReply | StopReply:
    """What a device is told to do."""
    if work.final_weights is not None:
        return StopReply(weights=work.final_weights)
    if work.wait_reason is not None:
        return WaitReply(retry_after_sec=service.config.retry_after_sec, reason=work.wait_reason)
    round_, settings = work.round_, work.round_.settings
    rate = settings.learning_rate
    return TrainReply(
        round=round_.number,
        model=service.model,
        weights=round_.base_weights,
        contract=service.contract.digest,
        local_epochs=settings.local_epochs,
        batch_size=settings.batch_size,
        learning_rate=service.contract.training.learning_rate if rate is None else rate,
        deadline_sec=round(max(0.0, round_.deadline_at - service.clock()), 3),
    )


def round_reply(row: dict[str, Any]) -> RoundReply:
    """A round from the columns that `Store.round_rows` gives."""
    updates = [
        UpdateReply(update=sent["sha256"], **{k: v for k, v in sent.items() if k in UpdateReply.model_fields})
        for sent in row["updates"]
    ]
    closed_at = row["closed_at"]
    return RoundReply(
        **{key: row[key] for key in row.keys() & _SAME_NAMES},
        round=row["number"],
        opened_at=_iso(row["opened_at"]),
        closed_at=None if closed_at is None else _iso(closed_at),
        duration_sec=None if closed_at is None else round(closed_at - row["opened_at"], 3),
        updates=updates,
        bytes_up=sum(sent.received_bytes for sent in updates),
        train_loss=_weighted([(sent.loss, sent.num_examples) for sent in updates]),
        train_accuracy=_weighted([(sent.accuracy, sent.num_examples) for sent in updates]),
    )


_SAME_NAMES = {
    "phase",
    "base_weights",
    "result_weights",
    "num_clients",
    "min_clients",
    "bytes_down",
    "holdout_loss",
    "holdout_accuracy",
}


def _weighted(values: list[tuple[float, int]]) -> float | None:
    """Mean of (value, num_examples) pairs, None without any; the same whatever their order."""
    if not values:
        return None
    return math.fsum(value * count for value, count in values) / sum(count for _, count in values)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
