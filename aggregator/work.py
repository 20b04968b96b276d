"""What passes between a device and a run: the work it is given, the upload it makes, what it says of it."""

import logging
from dataclasses import dataclass
from pathlib import Path

from fedfer.aggregator.device_store import Device
from fedfer.aggregator.gates import Rejection
from fedfer.aggregator.logs import about
from fedfer.aggregator.rounds import Round, Update, WaitReason

logger = logging.getLogger("fedfer.aggregator")


@dataclass(frozen=True)
class Work:
    """What a device is told: train in `round_`, or wait for a reason, or stop with `final_weights`.
    `rejected`: in which round its last update was turned away, and why."""

    round_: Round
    wait_reason: WaitReason | None = None
    retry_after_sec: float = 0.0
    final_weights: str | None = None
    rejected: tuple[int, Rejection] | None = None


@dataclass(eq=False)
class Ask:
    """A device's question what to do, while it waits for its answer."""

    device: Device
    answer: Work | None = None


@dataclass(frozen=True)
class Upload:
    """A received body in an unfinished file, its bytes synced to disk."""

    path: Path
    sha256: str
    num_bytes: int


@dataclass(frozen=True)
class Report:
    """What a device says of its update; the file's name and size come from the server."""

    base_weights: str
    num_examples: int
    loss: float
    accuracy: float
    train_sec: float | None


def update_of(device: Device, work_round: int, upload: Upload, report: Report) -> Update:
    """The update that an upload is, if it is accepted."""
    return Update(
        device.id,
        work_round,
        upload.sha256,
        report.num_examples,
        upload.num_bytes,
        report.loss,
        report.accuracy,
        report.train_sec,
    )


def log_accepted(run: str, device: Device, update: Update, after: Round) -> None:
    """Says that an update is in."""
    logger.info(
        "run %s round %d: update %d of %d from %s accepted: %d examples, loss %.4f, accuracy %.3f, %d bytes",
        run,
        after.number,
        len(after.updates),
        after.settings.num_clients,
        device.name,
        update.num_examples,
        update.loss,
        update.accuracy,
        update.received_bytes,
        extra=about(run=run, round=after.number, device=device.id),
    )


def log_places(run: str, selected: Round, num_devices: int) -> None:
    """Says how many places a round gives, and whether there are too few devices for it."""
    settings = selected.settings
    few = num_devices < settings.num_clients
    logger.info(
        "run %s round %d: %d places for %d updates, %d devices are here%s",
        run,
        selected.number,
        settings.num_places,
        settings.num_clients,
        num_devices,
        ": too few, unless others come it closes at its deadline" if few else "",
        extra=about(run=run, round=selected.number),
    )
