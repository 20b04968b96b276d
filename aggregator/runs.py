"""One run without HTTP: ties the round's pure transitions to the store, the clock and the closer.

Every change is computed by `rounds`, made durable by the store, and only then taken over in memory, under
one lock. Methods block (disk, database): call them from worker threads.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from fedfer.aggregator import rounds
from fedfer.aggregator.config import RunSettings
from fedfer.aggregator.device_store import Device
from fedfer.aggregator.round_store import Result
from fedfer.aggregator.rounds import Round, Update, WaitReason
from fedfer.aggregator.run_files import parse_settings
from fedfer.aggregator.run_store import RunRow, RunState, StopReason
from fedfer.aggregator.store import Store
from fedfer.export.checkpoint import check_file, max_checkpoint_bytes
from fedfer.export.contract import Contract
from fedfer.model.errors import RefusedError, StoreError

logger = logging.getLogger("fedfer.aggregator")


@dataclass(frozen=True)
class Work:
    """What a device is told: train in `round_`, or wait for a reason, or stop with `final_weights`."""

    run: "Run"
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


class Run:
    """State of one run. `changed` guards it, and wakes whoever waits for a round to close."""

    def __init__(
        self,
        row: RunRow,
        store: Store,
        contract: Contract,
        clock: Callable[[], float],
        holdout_examples: int = 0,
    ) -> None:
        """Raises StoreError if the store has no round of it, or settings that cannot be read."""
        self.name, self.model, self.contract, self.clock = row.name, row.model, contract, clock
        self.settings: RunSettings = parse_settings(row.settings)
        self.store, self.rounds, self.blobs = store, store.rounds(row.name), store.blobs
        self.holdout_examples = holdout_examples
        self.changed = threading.Condition()
        self._state: RunState = row.state
        self._stop_reason: StopReason | None = row.stop_reason
        latest = self.rounds.latest()
        if latest is None:
            raise StoreError(f"run {row.name} has no round; restore a copy of the database")
        self._round, result = latest
        self._newest_weights = result or self._round.base_weights

    @property
    def round_(self) -> Round:
        return self._round

    @property
    def newest_weights(self) -> str:
        return self._newest_weights

    @property
    def state(self) -> RunState:
        return self._state

    @property
    def stop_reason(self) -> StopReason | None:
        return self._stop_reason

    @property
    def is_over(self) -> bool:
        return self._state in ("finished", "stopped")

    @property
    def max_upload_bytes(self) -> int:
        return max_checkpoint_bytes(self.contract)

    @property
    def filled(self) -> float:
        """Share of the open round's places that are taken."""
        round_ = self._round
        return (len(round_.updates) + len(round_.assigned)) / round_.settings.num_clients

    def fits(self, device: Device) -> bool:
        return device.contract is None or device.contract == self.contract.digest

    def has_place(self, device: Device) -> bool:
        return device.id in self._round.assigned and not self.is_over

    def is_version(self, sha256: str) -> bool:
        return self.rounds.is_version(sha256)

    # Devices

    def work(self, device: Device) -> Work:
        """Joins the device to the open round if it has a free place. Raises RefusedError, StoreError."""
        if not self.fits(device):
            raise RefusedError(
                f"device has contract {device.contract}; run {self.name} has {self.contract.digest}",
                code="wrong_model",
                status=409,
            )
        with self.changed:
            self.pass_deadline()
            if self.is_over:
                return Work(self, self._round, final_weights=self._newest_weights)
            if self._state == "paused":
                return Work(self, self._round, wait_reason="paused")
            joined, reason = rounds.join(self._round, device.id)
            if joined is not self._round:
                self.rounds.take_place(joined.number, device.id)
                self._round = joined
            return Work(self, joined, wait_reason=reason)

    def check_upload(self, device: Device, number: int, base_weights: str) -> None:
        """Refuses an upload before its body is read. Raises RefusedError, StoreError."""
        with self.changed:
            self.pass_deadline()
            if number == self._round.number and not self.is_over:
                rounds.check_upload(self._round, device.id, base_weights)
            else:
                self._earlier_update(device, number)

    def repeated(self, device: Device, number: int, upload: Upload) -> Update | None:
        """The update that was accepted before, if this is its body again. Raises RefusedError for another."""
        earlier = self.rounds.find_update(number, device.id)
        if earlier is not None:
            rounds.check_repeat(earlier, upload.sha256, number)
        return earlier

    def check_content(self, upload: Upload) -> None:
        """Raises CheckpointError unless the body is a checkpoint of the run's model."""
        check_file(upload.path, self.contract)

    def accept(self, device: Device, number: int, upload: Upload, report: Report) -> Update:
        """Takes a checked upload; durable on return. Raises RefusedError, StoreError."""
        update = _update(device, upload, report)
        with self.changed:
            self.pass_deadline()
            if number != self._round.number or self.is_over:
                earlier = self._earlier_update(device, number)
                rounds.check_repeat(earlier, upload.sha256, number)
                return earlier
            after = rounds.accept(self._round, update, report.base_weights)
            if after is self._round:
                return after.updates[device.id]
            self._take(upload, update, after)
        self._log_accepted(device, update, after)
        return update

    # Rounds

    def start_up(self) -> None:
        """After a start: opens another round if more are wanted now, else gives devices time to return."""
        newest, settings = self._round, self.settings
        if newest.phase != "done":
            self._round = rounds.resume(newest, self.clock())
        elif self._stop_reason == "rounds" and newest.number < settings.num_rounds:
            following = self._opened(newest.number + 1, self._newest_weights)
            self.store.runs.set_state(self.name, "running", None)
            self.rounds.add(following)
            self._state, self._stop_reason, self._round = "running", None, following

    def pass_deadline(self) -> None:
        """Lets the deadline have its effect if its time has come; needs `changed` held. Raises StoreError."""
        if self._state != "running":
            return
        after = rounds.tick(self._round, self.clock())
        if after is self._round:
            return
        self.rounds.pass_deadline(after)
        missing = after.settings.required_clients - len(after.updates)
        if after.phase == "open":
            logger.info(
                "run %s round %d: deadline renewed, %d updates missing", self.name, after.number, missing
            )
        self._set_round(after)

    def commit(self, round_: Round, result: Result) -> None:
        """Ends a round with its result, and opens the next one or ends the run. Nothing happens to a round
        that was given up meanwhile. Raises StoreError."""
        with self.changed:
            if self._round.number != round_.number or self.is_over:
                return
            over: StopReason | None = "rounds" if round_.number >= self.settings.num_rounds else None
            following = None if over else self._opened(round_.number + 1, result.weights)
            self.rounds.finish(round_.number, result, following, over)
            self._newest_weights = result.weights
            if over is not None:
                self._state, self._stop_reason = "finished", over
            self._set_round(following or done(round_))

    def _opened(self, number: int, weights: str) -> Round:
        return rounds.open_round(number, weights, self.settings.rounds, self.clock())

    def count_download(self, num_bytes: int) -> None:
        """Adds to the newest round's bytes_down. Raises StoreError."""
        self.rounds.add_bytes_down(self._round.number, num_bytes)

    # Operators

    def pause(self) -> None:
        """No more work is given; what is on its way is taken. Raises RefusedError, StoreError."""
        self._change("running", "paused", None)

    def resume(self) -> None:
        """Ends a pause. Raises RefusedError, StoreError."""
        self._change("paused", "running", None)

    def stop(self) -> None:
        """Ends the run for good, without the open round. Raises RefusedError, StoreError."""
        with self.changed:
            expected: RunState = "paused" if self._state == "paused" else "running"
            self._change(expected, "stopped", "operator")
            self.changed.notify_all()

    def _change(self, expected: RunState, state: RunState, reason: StopReason | None) -> None:
        with self.changed:
            if self._state != expected:
                raise RefusedError(
                    f"run {self.name} is {self._state}; expected {expected}", code="wrong_state", status=409
                )
            self.store.runs.set_state(self.name, state, reason)
            self._state, self._stop_reason = state, reason
            if state == "running":
                self._round = rounds.resume(self._round, self.clock())
            logger.info("run %s is %s", self.name, state)

    def _take(self, upload: Upload, update: Update, after: Round) -> None:
        place = self.blobs.update_path(self.name, after.number, update.sha256)
        try:
            self.blobs.keep(upload.path, place)
        except OSError as error:
            raise StoreError(f"cannot keep an update: {error.strerror}") from None
        self.rounds.add_update(self._round, update, after)
        self._set_round(after)

    def _set_round(self, after: Round) -> None:
        self._round = after
        if after.phase != "open":
            self.changed.notify_all()

    def _earlier_update(self, device: Device, number: int) -> Update:
        """The device's update of a round that is over. Raises RefusedError."""
        if not 1 <= number <= self._round.number:
            raise unknown_round(number, self._round.number)
        earlier = self.rounds.find_update(number, device.id)
        if earlier is None:
            raise self._training_over() if self.is_over else rounds.round_over(number)
        return earlier

    def _training_over(self) -> RefusedError:
        return RefusedError(
            f"run {self.name} is over ({self._stop_reason}); ask for work to learn its result",
            code="training_over",
            status=409,
        )

    def _log_accepted(self, device: Device, update: Update, after: Round) -> None:
        logger.info(
            "run %s round %d: update %d of %d from %s accepted: %d examples, loss %.4f, accuracy %.3f, "
            "%d bytes",
            self.name,
            after.number,
            len(after.updates),
            after.settings.num_clients,
            device.name,
            update.num_examples,
            update.loss,
            update.accuracy,
            update.received_bytes,
        )


def unknown_round(number: int, newest: int) -> RefusedError:
    """What a question about a round that is not there gets."""
    return RefusedError(f"no round {number}; the newest is {newest}", code="unknown_round", status=404)


def done(round_: Round) -> Round:
    """The last round, closed for good."""
    return replace(round_, phase="done")


def _update(device: Device, upload: Upload, report: Report) -> Update:
    return Update(
        device.id,
        upload.sha256,
        report.num_examples,
        upload.num_bytes,
        report.loss,
        report.accuracy,
        report.train_sec,
    )
