"""The JSON that the aggregator takes and gives, as docs/protocol.md has it."""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from fedfer.aggregator.config import RUN_NAME, RoundSettings
from fedfer.aggregator.results import End, Outcome, StopReason
from fedfer.aggregator.rounds import Phase, WaitReason
from fedfer.aggregator.run_files import settings_json
from fedfer.aggregator.run_store import RunState
from fedfer.aggregator.runs import Run
from fedfer.aggregator.version_store import Version
from fedfer.aggregator.versions import Comparison
from fedfer.aggregator.work import Work

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


class RejectionReply(BaseModel):
    """Why the device's last update was turned away when its round closed."""

    round: int
    code: str
    reason: str


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
    proximal_mu: float = Field(description="Of FedProx; 0 with any other strategy.")
    deadline_sec: float = Field(description="Seconds left until the round's deadline.")
    rejected: RejectionReply | None


class WaitReply(BaseModel):
    action: Literal["wait"] = "wait"
    run: str
    retry_after_sec: float
    reason: WaitReason
    rejected: RejectionReply | None


class StopReply(BaseModel):
    action: Literal["stop"] = "stop"
    run: str
    reason: StopReason
    text: str = Field(description="The reason in words.")
    weights: Sha256
    rejected: RejectionReply | None


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
    work_round: int = Field(description="The round whose version it was trained from.")
    code: str | None = Field(description="Why it was turned away; null if it counted.")
    reason: str | None


class RefusedUploadReply(BaseModel):
    device_id: str
    device_name: str
    code: str
    reason: str = Field(description="Of the last time.")
    times: int
    last_at: str


class RoundReply(BaseModel):
    run: str
    round: int
    phase: Phase
    outcome: Outcome | None
    reason: str | None
    base_weights: Sha256 | None
    candidate_weights: Sha256 | None
    result_weights: Sha256 | None
    num_clients: int
    min_clients: int | None
    opened_at: str
    closed_at: str | None
    duration_sec: float | None
    updates: list[UpdateReply]
    num_refusals: int = Field(description="Uploads refused when they came, while it was the newest round.")
    bytes_up: int
    bytes_down: int
    train_loss: float | None
    train_accuracy: float | None
    holdout_loss: float | None
    holdout_accuracy: float | None


class OneRoundReply(RoundReply):
    refusals: list[RefusedUploadReply]


class RoundsReply(BaseModel):
    rounds: list[RoundReply]


class ModelReply(BaseModel):
    model: Sha256
    contract: Sha256


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
    stop_text: str | None
    waits_for: str | None
    model: Sha256
    contract: Sha256
    round: int
    num_rounds: int
    weights: Sha256 = Field(description="The newest version.")
    best_weights: Sha256 | None = Field(description="By the holdout set; null without one.")
    result_weights: Sha256 = Field(description="The best version if the run stops at its plateau.")
    phase: Phase = Field(description="Of the newest round.")
    num_updates: int = Field(description="Those that are in the newest round.")
    num_active_devices: int
    num_rejected: int
    holdout_examples: int
    settings: dict[str, Any]


class RunsReply(BaseModel):
    runs: list[RunReply]
    num_devices: int


class VersionReply(BaseModel):
    round: int
    weights: Sha256
    parent_round: int | None
    parent_weights: Sha256 | None
    updates: list[Sha256] = Field(
        description="What it was made of, in the order of arrival; not what was turned away."
    )
    committed_at: str
    holdout_loss: float | None
    holdout_accuracy: float | None
    is_kept: bool = Field(description="False once retention has deleted its file.")
    tags: list[str]


class VersionsReply(BaseModel):
    versions: list[VersionReply]


class ComparisonReply(BaseModel):
    """Version b against a: Euclidean distances, changes of holdout measures."""

    a: VersionReply
    b: VersionReply
    weights_distance: float
    statistics_distance: float
    holdout_loss_change: float | None
    holdout_accuracy_change: float | None


class RollbackRequest(BaseModel):
    """`to`: a tag, a sha256, or the number of the round that the version came of."""

    model_config = ConfigDict(extra="forbid")
    to: Annotated[str, StringConstraints(min_length=1, max_length=64)]


class TagRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")
    tag: RunName
    version: Annotated[str, StringConstraints(min_length=1, max_length=64)]


class HealthReply(BaseModel):
    status: Literal["ok"] = "ok"


class ReadyReply(BaseModel):
    ready: bool
    problems: dict[str, str] = Field(description="What is wrong, by database, disk, files, bucket, closing.")


def work_reply(run: Run, work: Work) -> TrainReply | WaitReply | StopReply:
    """What a device is told to do."""
    round_, settings, rejected = work.round_, work.round_.settings, None
    if work.rejected is not None:
        number, why = work.rejected
        rejected = RejectionReply(round=number, code=why.code, reason=why.reason)
    if work.final_weights is not None:
        end = run.end or End("operator", "")
        return StopReply(
            run=run.name, reason=end.reason, text=end.text, weights=work.final_weights, rejected=rejected
        )
    if work.wait_reason is not None:
        pause_sec = work.retry_after_sec
        return WaitReply(run=run.name, retry_after_sec=pause_sec, reason=work.wait_reason, rejected=rejected)
    return TrainReply(
        run=run.name,
        round=round_.number,
        model=run.model,
        weights=round_.base.weights,
        contract=run.contract.digest,
        local_epochs=settings.local_epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate_of(round_.number, run.contract.training.learning_rate),
        proximal_mu=run.strategy.client_settings().get("proximal_mu", 0.0),
        deadline_sec=round(max(0.0, round_.deadline_at - run.clock()), 3),
        rejected=rejected,
    )


def run_reply(run: Run) -> RunReply:
    """Where a run stands."""
    with run.changed:
        return RunReply(
            run=run.name,
            state=run.state,
            stop_reason=run.end.reason if run.end else None,
            stop_text=run.end.text if run.end else None,
            waits_for=run.waits_for(),
            model=run.model,
            contract=run.contract.digest,
            round=run.round_.number,
            num_rounds=run.settings.num_rounds,
            weights=run.newest_weights,
            best_weights=run.best_weights,
            result_weights=run.result_weights,
            phase=run.round_.phase,
            num_updates=len(run.round_.updates),
            num_active_devices=run.fleet.num_active(),
            num_rejected=run.rounds.num_rejected(),
            holdout_examples=run.holdout_examples,
            settings=settings_json(run.settings),
        )


def version_reply(
    version: Version, all_versions: Sequence[Version], updates: Mapping[int, Sequence[str]]
) -> VersionReply:
    """A version; its parent's name comes from the others, what it was made of from `Versions.updates`."""
    parents = [other.weights for other in all_versions if other.round == version.parent_round]
    names = ("round", "weights", "parent_round", "holdout_loss", "holdout_accuracy", "is_kept")
    return VersionReply(
        **{name: getattr(version, name) for name in names},
        parent_weights=parents[0] if parents else None,
        updates=list(updates.get(version.round, ())),
        committed_at=iso(version.committed_at),
        tags=list(version.tags),
    )


def comparison_reply(
    found: Comparison, all_versions: Sequence[Version], updates: Mapping[int, Sequence[str]]
) -> ComparisonReply:
    """How two versions differ."""
    names = (
        "weights_distance",
        "statistics_distance",
        "holdout_loss_change",
        "holdout_accuracy_change",
    )
    return ComparisonReply(
        **{name: getattr(found, name) for name in names},
        a=version_reply(found.a, all_versions, updates),
        b=version_reply(found.b, all_versions, updates),
    )


def one_round_reply(row: dict[str, Any], refused: Sequence[dict[str, Any]]) -> OneRoundReply:
    """A round from what `RoundStore.rows` and `RefusalStore.rows` give."""
    names = ("device_id", "device_name", "code", "reason", "times")
    refusals = [
        RefusedUploadReply(**{name: each[name] for name in names}, last_at=iso(each["last_at"]))
        for each in refused
    ]
    num_refusals = sum(each.times for each in refusals)
    return OneRoundReply(**vars(round_reply(row, num_refusals)), refusals=refusals)


def round_reply(row: dict[str, Any], num_refusals: int) -> RoundReply:
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
        min_clients=settings.min_clients if settings else 0,
        opened_at=iso(row["opened_at"]),
        closed_at=None if closed_at is None else iso(closed_at),
        duration_sec=None if closed_at is None else round(closed_at - row["opened_at"], 3),
        updates=updates,
        num_refusals=num_refusals,
        bytes_up=sum(sent.received_bytes for sent in updates),
        train_loss=_weighted([(sent.loss, sent.num_examples) for sent in updates]),
        train_accuracy=_weighted([(sent.accuracy, sent.num_examples) for sent in updates]),
    )


_SAME_NAMES = {
    "run",
    "phase",
    "outcome",
    "reason",
    "base_weights",
    "candidate_weights",
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
