"""The aggregator without HTTP: ties the round's pure transitions to the store, the clock and the closer.

Every change is computed by `rounds`, made durable by the store, and only then taken over in memory, under
one lock. Methods block (disk, database): call them from worker threads. Killed at any moment, a new
service on the same directory goes on where the store is.
"""

import hmac
import logging
import secrets
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from fedfer.aggregator import rounds
from fedfer.aggregator.config import ServerConfig
from fedfer.aggregator.rounds import Round, Update, WaitReason
from fedfer.aggregator.store import Device, Store
from fedfer.export.checkpoint import check_file
from fedfer.export.contract import Contract
from fedfer.model.errors import RefusedError, StoreError

logger = logging.getLogger("fedfer.aggregator")


@dataclass(frozen=True)
class Work:
    """What a device is told: train in `round_`, or wait for a reason, or stop with `final_weights`."""

    round_: Round
    wait_reason: WaitReason | None = None
    final_weights: str | None = None


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


class Service:
    """State of a running aggregator. `changed` wakes whoever waits for a round to close."""

    def __init__(
        self,
        config: ServerConfig,
        store: Store,
        contract: Contract,
        model: str,
        clock: Callable[[], float],
        holdout_examples: int = 0,
    ) -> None:
        latest = store.latest_round()
        if latest is None:
            raise StoreError("the store has no round yet")
        self.config, self.store, self.contract, self.model, self.clock = config, store, contract, model, clock
        self.holdout_examples = holdout_examples
        self.changed = threading.Condition()
        self._round, result = latest
        self._newest_weights = result or self._round.base_weights

    @property
    def round_(self) -> Round:
        return self._round

    @property
    def newest_weights(self) -> str:
        return self._newest_weights

    @property
    def is_finished(self) -> bool:
        return self._round.phase == "done"

    # Devices

    def enrol(self, name: str, contract: str | None) -> tuple[Device, str]:
        """A new device and its token, which is kept nowhere. Raises RefusedError, StoreError."""
        if contract is not None and contract != self.contract.digest:
            raise RefusedError(
                f"device has contract {contract}; this aggregator serves {self.contract.digest}",
                code="wrong_model",
                status=409,
            )
        device, token = Device(uuid.uuid4().hex, name), secrets.token_urlsafe(32)
        if not self.store.add_device(device, _token_sha256(token), self.clock(), self.config.max_devices):
            raise RefusedError(
                f"{self.config.max_devices} devices have enrolled, as many as this aggregator takes",
                code="too_many_devices",
                status=409,
            )
        logger.info("device %s enrolled as %s", name, device.id)
        return device, token

    def authenticate(self, token: str) -> Device:
        """The device that this token was given to. Raises RefusedError."""
        digest = _token_sha256(token)
        found = self.store.device_by_token(digest)
        if found is None or not hmac.compare_digest(found[1], digest):
            raise RefusedError(
                "expected `Authorization: Bearer <token>` with a token that this server gave; enrol first",
                code="bad_token",
                status=401,
            )
        return found[0]

    # Work

    def work(self, device: Device) -> Work:
        """Joins the device to the open round if it has a free place. Raises StoreError."""
        with self.changed:
            self.pass_deadline()
            if self.is_finished:
                return Work(self._round, final_weights=self._newest_weights)
            joined, reason = rounds.join(self._round, device.id)
            if joined is not self._round:
                self.store.take_place(joined.number, device.id)
                self._round = joined
            return Work(joined, wait_reason=reason)

    def check_upload(self, device: Device, number: int, base_weights: str) -> None:
        """Refuses an upload before its body is read. Raises RefusedError, StoreError."""
        with self.changed:
            self.pass_deadline()
            if number == self._round.number and not self.is_finished:
                rounds.check_upload(self._round, device.id, base_weights)
            else:
                self._earlier_update(device, number)

    def repeated(self, device: Device, number: int, upload: Upload) -> Update | None:
        """The update that was accepted before, if this is its body again. Raises RefusedError for another."""
        earlier = self.store.find_update(number, device.id)
        if earlier is not None:
            rounds.check_repeat(earlier, upload.sha256, number)
        return earlier

    def check_content(self, upload: Upload) -> None:
        """Raises CheckpointError unless the body is a checkpoint of the served model."""
        check_file(upload.path, self.contract)

    def accept(self, device: Device, number: int, upload: Upload, report: Report) -> Update:
        """Takes a checked upload; durable on return. Raises RefusedError, StoreError."""
        update = Update(
            device.id,
            upload.sha256,
            report.num_examples,
            upload.num_bytes,
            report.loss,
            report.accuracy,
            report.train_sec,
        )
        with self.changed:
            self.pass_deadline()
            if number != self._round.number or self.is_finished:
                earlier = self._earlier_update(device, number)
                rounds.check_repeat(earlier, upload.sha256, number)
                return earlier
            after = rounds.accept(self._round, update, report.base_weights)
            if after is self._round:
                return after.updates[device.id]
            self._take(upload, update, after)
        logger.info(
            "round %d: update %d of %d from %s accepted: %d examples, loss %.4f, accuracy %.3f, %d bytes",
            number,
            len(after.updates),
            after.settings.num_clients,
            device.name,
            update.num_examples,
            update.loss,
            update.accuracy,
            update.received_bytes,
        )
        return update

    # Rounds

    def resume(self) -> None:
        """After a start: opens another round if more are wanted now, else gives devices time to return."""
        config = self.config
        if not self.is_finished:
            self._round = rounds.resume(self._round, self.clock())
        elif self._round.number < config.num_rounds:
            number = self._round.number + 1
            self._round = rounds.open_round(number, self._newest_weights, config.rounds, self.clock())
            self.store.add_round(self._round)

    def pass_deadline(self) -> None:
        """Lets the deadline have its effect if its time has come; needs `changed` held. Raises StoreError."""
        after = rounds.tick(self._round, self.clock())
        if after is self._round:
            return
        self.store.pass_deadline(after)
        missing = after.settings.required_clients - len(after.updates)
        if after.phase == "open":
            logger.info("round %d: deadline renewed, %d updates missing", after.number, missing)
        self._set_round(after)

    def advance(self, following: Round, newest_weights: str) -> None:
        """Takes over what the closer has committed."""
        with self.changed:
            self._newest_weights = newest_weights
            self._set_round(following)

    def count_download(self, num_bytes: int) -> None:
        """Adds to the running round's bytes_down; after the last round there is none. Raises StoreError."""
        if num_bytes and not self.is_finished:
            self.store.add_bytes_down(self._round.number, num_bytes)

    def open_file(self, kind: str, name: str) -> Path:
        """The served model or a version by its sha256. Raises RefusedError, StoreError."""
        if kind == "model" and name == self.model:
            return self.store.blobs.model_path(name)
        if kind == "weights" and self.store.is_version(name):
            return self.store.blobs.version_path(name)
        raise RefusedError(f"no {kind} {name} here", code=f"unknown_{kind}", status=404)

    def _take(self, upload: Upload, update: Update, after: Round) -> None:
        place = self.store.blobs.update_path(after.number, update.sha256)
        try:
            self.store.blobs.keep(upload.path, place)
        except OSError as error:
            raise StoreError(f"cannot keep an update: {error.strerror}") from None
        self.store.add_update(self._round, update, after)
        self._set_round(after)

    def _set_round(self, after: Round) -> None:
        self._round = after
        if after.phase != "open":
            self.changed.notify_all()

    def _earlier_update(self, device: Device, number: int) -> Update:
        """The device's update of a round that is over. Raises RefusedError."""
        if not 1 <= number <= self._round.number:
            raise unknown_round(number, self._round.number)
        earlier = self.store.find_update(number, device.id)
        if earlier is None:
            raise rounds.round_over(number)
        return earlier


def unknown_round(number: int, newest: int) -> RefusedError:
    """What a question about a round that is not there gets."""
    return RefusedError(f"no round {number}; the newest is {newest}", code="unknown_round", status=404)


def _token_sha256(token: str) -> str:
    return sha256(token.encode(errors="replace")).hexdigest()


def done(round_: Round) -> Round:
    """The last round, closed for good."""
    return replace(round_, phase="done")
