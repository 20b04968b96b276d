"""What happens to a run, without HTTP: ties its rounds' pure transitions to the store, clock and closer.

Every change is computed by `rounds`, made durable by the store, and only then taken over in memory, under
one lock. Methods block (disk, database): call them from worker threads.
"""

import logging
from dataclasses import replace

from fedfer.aggregator import history, rounds
from fedfer.aggregator.device_store import Device
from fedfer.aggregator.faults import reach
from fedfer.aggregator.gates import Rejection
from fedfer.aggregator.logs import about
from fedfer.aggregator.results import End, Result
from fedfer.aggregator.rounds import Base, Place, Round, Update, WaitReason
from fedfer.aggregator.run_core import RunCore
from fedfer.aggregator.run_store import RunState
from fedfer.aggregator.selection import ranked
from fedfer.aggregator.work import Ask, Report, Upload, Work, log_accepted, log_places, update_of
from fedfer.export.checkpoint import check_file
from fedfer.model.errors import RefusedError, StoreError

logger = logging.getLogger("fedfer.aggregator")


class Run(RunCore):
    """What devices, the closer and operators do to a run."""

    def has_place(self, device: Device) -> bool:
        return device.id in self._round.assigned and not self.is_over

    # Devices

    def work(self, device: Device) -> Work:
        """Joins the device to the open round if it has a free place. Raises RefusedError, StoreError."""
        self._check_fits(device)
        settled = self._settled(device)
        if settled is not None:
            return settled
        ask = Ask(device)
        self._asks.append(ask)
        try:
            with self.changing():
                if ask.answer is None:  # whoever had the lock before has not answered this one too
                    self._answer_all()
                assert ask.answer is not None
                return ask.answer
        finally:
            self._asks.remove(ask)

    def _answer_all(self) -> None:
        """Answers all who wait for the lock at this moment: one wait for the disk, however many get a place.
        Needs `changed` held. Raises StoreError."""
        self.pass_deadline()
        asks = [ask for ask in self._asks if ask.answer is None]
        if not self.is_over and self._state != "paused":
            self._give_out_places()
            self._join(asks)
            return
        for ask in asks:
            if self.is_over:
                rejected = self._rejected.get(ask.device.id)
                ask.answer = Work(self._round, final_weights=self._result_weights, rejected=rejected)
            else:
                ask.answer = self._wait(ask.device, "paused")

    def _join(self, asks: list[Ask]) -> None:
        before = joined = self._round
        reasons, now = list[WaitReason | None](), self.clock()
        for ask in asks:
            joined, reason = rounds.join(joined, ask.device.id, now)
            reasons.append(reason)
        if joined is not before:
            self.rounds.take_places(joined.number, sorted(joined.assigned - before.assigned))
            reach("place_taken")
            self._round = joined
        for ask, reason in zip(asks, reasons, strict=True):
            rejected = self._rejected.get(ask.device.id)
            ask.answer = self._wait(ask.device, reason) if reason else Work(joined, rejected=rejected)

    def settled_work(self, device: Device) -> Work | None:
        """`work` if it is known already, at once; None if there is something to do first. Raises
        RefusedError."""
        self._check_fits(device)
        return self._settled(device) if self.fleet.is_counted else None

    def _check_fits(self, device: Device) -> None:
        if not self.fits(device):
            raise RefusedError(
                f"device has contract {device.contract}; run {self.name} has {self.contract.digest}",
                code="wrong_model",
                status=409,
            )

    def _settled(self, device: Device) -> Work | None:
        """The answer if it changes nothing: without the lock, which is held while an update is made durable.
        None if there is something to do first. It reads one frozen round, whatever happens meanwhile."""
        round_, now = self._round, self.clock()
        is_due = round_.phase == "open" and (now >= round_.deadline_at or round_.selected_at is None)
        if self._state != "running" or is_due:
            return None
        joined, reason = rounds.join(round_, device.id, now)
        if joined is not round_:
            return None
        if reason is not None:
            return self._wait(device, reason, round_)
        return Work(round_, rejected=self._rejected.get(device.id))

    def _wait(self, device: Device, reason: WaitReason, round_: Round | None = None) -> Work:
        round_ = round_ or self._round
        pause_sec = self.fleet.retry_after_sec(device, round_)
        return Work(round_, reason, pause_sec, rejected=self._rejected.get(device.id))

    def check_upload(self, device: Device, number: int, base_weights: str) -> None:
        """Refuses an upload before its body is read; what may be a repeat passes. Raises RefusedError,
        StoreError."""
        with self.changing():
            self.pass_deadline()
            if (device.id, number) not in self._round.updates and not self._find_update(device, number):
                rounds.check_upload(self._round, self._place(device, number), base_weights)

    def repeated(self, device: Device, number: int, upload: Upload) -> Update | None:
        """The update that was accepted before, if this is its body again. Raises RefusedError for another."""
        earlier = self.rounds.find_update(number, device.id)
        if earlier is not None:
            rounds.check_repeat(earlier, upload.sha256)
        return earlier

    def check_content(self, upload: Upload) -> None:
        """Raises CheckpointError unless the body is a checkpoint of the run's model."""
        check_file(upload.path, self.contract)
        reach("upload_checked")

    def accept(self, device: Device, number: int, upload: Upload, report: Report) -> Update:
        """Takes a checked upload; durable on return. Raises RefusedError, StoreError."""
        update = update_of(device, number, upload, report)
        expected = self.blobs.update_path(self.name, self._round.number, upload.sha256)
        self.blobs.send_ahead(upload.path, expected)  # into a bucket, without holding up the run meanwhile
        with self.changing():
            self.pass_deadline()
            earlier = self._round.updates.get(update.key) or self._find_update(device, number)
            if earlier is not None:
                rounds.check_repeat(earlier, upload.sha256)
                return earlier
            place = self._place(device, number)
            after = rounds.accept(self._round, place, update, report.base_weights)
            self._take(upload, update, after)
        reach("update_accepted")
        log_accepted(self.name, device, update, after)
        return update

    def note_refusal(self, device: Device, why: Rejection) -> None:
        """Keeps that an upload was refused, for the operator; the device hears of it in any case."""
        try:
            self.refusals.note(self._round.number, device.id, why, self.clock())
        except StoreError as error:
            logger.error("run %s: %s", self.name, error, extra=about(run=self.name, device=device.id))

    def _find_update(self, device: Device, number: int) -> Update | None:
        """What the device sent for the work of an earlier round. Raises RefusedError."""
        if not 1 <= number <= self._round.number:
            raise rounds.unknown_round(number, self._round.number)
        if number == self._round.number and self._round.phase == "open":
            return None
        return self.rounds.find_update(number, device.id)

    def _place(self, device: Device, number: int) -> Place | None:
        """The work that the device was given in that round. Raises RefusedError if no update counts now."""
        if self.is_over:
            raise RefusedError(
                f"run {self.name} is over: {self._end.text if self._end else ''}; "
                f"ask for work to learn its result",
                code="training_over",
                status=409,
            )
        if not self._round.settings.is_async and number != self._round.number:
            raise rounds.round_over(number)
        if self._round.settings.is_async and self._round.phase != "open":
            raise RefusedError("the buffer is being averaged; send it again", code="aggregating", status=429)
        if number == self._round.number:
            return self._round.place_of(device.id)
        return self.rounds.find_place(number, device.id)

    def _take(self, upload: Upload, update: Update, after: Round) -> None:
        place = self.blobs.update_path(self.name, after.number, update.sha256)
        try:
            self.blobs.keep(upload.path, place)
        except OSError as error:
            raise StoreError(f"cannot keep an update: {error.strerror}") from None
        reach("upload_kept")
        self.rounds.add_update(self._round, update, after)
        reach("update_noted")
        self._set_round(after)

    # Rounds

    def _give_out_places(self) -> None:
        """Selects devices for a round that has not yet done so, once enough of them are there."""
        round_ = self._round
        if round_.phase != "open" or round_.selected_at is not None:
            return
        there = self.fleet.active()
        order = ranked(there, self.settings.seed, self.name, round_.number)
        selected = rounds.select(round_, order, self.clock())
        if selected is round_:
            return
        self.rounds.give_out(selected)
        reach("places_given_out")
        self._set_round(selected)
        log_places(self.name, selected, len(there))

    def commit(self, round_: Round, result: Result) -> bool:
        """Ends a round with its result, and opens the next one or ends the run. False, and nothing, for a
        round that was given up meanwhile. Raises StoreError."""
        with self.changing():
            if self._round.number != round_.number or self.is_over:
                return False
            line = history.lineage(self.versions.all(), round_.base.round)
            num_rolled_back = self.rounds.num_rolled_back(round_)
            end = history.end_of(line, round_, result, self.settings, num_rolled_back)
            base = round_.base
            if result.outcome == "committed":
                base = Base(result.weights, round_.number, result.state)
            following = None if end else self._opened(round_.number + 1, base)
            self.rounds.finish(round_, result, following, end)
            reach("round_committed")
            for device_id, work_round in round_.updates:  # what counts is what became of its last update
                self._rejected.pop(device_id, None)
                if why := result.rejections.get((device_id, work_round)):
                    self._rejected[device_id] = round_.number, why
            self.fleet.note_durations(result.closed_at - (round_.selected_at or round_.opened_at))
            self._newest_weights = base.weights
            if end is not None:
                self._state, self._end = "finished", end
            self._set_round(following or replace(round_, phase="done"))
            self._result_weights = self._find_result()
            self.changed.notify_all()  # whoever waits for this round need not look again by the clock
            return True

    def drop_versions(self) -> None:
        """Deletes the versions that the retention rule does not keep. Raises StoreError."""
        with self.changing():
            round_, settings = self._round, self._round.settings
            oldest = round_.number - (settings.max_staleness if settings.is_async else 0)
            bases = {self.rounds.base_of(number) for number in range(max(1, oldest), round_.number + 1)}
            pinned = {self._newest_weights, self._result_weights, self.best_weights, *bases}
            self.versions.drop_old(self.settings, {name for name in pinned if name})

    def count_download(self, num_bytes: int) -> None:
        """Adds to the newest round's bytes_down. Raises StoreError."""
        self.rounds.add_bytes_down(self._round.number, num_bytes)

    # Operators

    def pause(self) -> None:
        """No more work is given; what is on its way is taken. Raises RefusedError, StoreError."""
        with self.changing():
            self._change(("running",), "paused", None)

    def resume(self) -> None:
        """Ends a pause. Raises RefusedError, StoreError."""
        with self.changing():
            self._change(("paused",), "running", None)
            self._round = rounds.resume(self._round, self.clock())
            self.changed.notify_all()

    def stop(self) -> None:
        """Ends the run for good, without the open round. Raises RefusedError, StoreError."""
        with self.changing():
            self._change(("running", "paused"), "stopped", End("operator", "an operator stopped it"))
            self._result_weights = self._find_result()
            self.changed.notify_all()

    def roll_back(self, wanted: str) -> None:
        """Gives the open round up; the next one starts from the version with this tag, sha256 or round. A
        run that is over goes on. Raises RefusedError, StoreError."""
        with self.changing():
            version = self.versions.find(wanted)
            base = Base(version.weights, version.round, version.state)
            following, given_up = self._opened(self._round.number + 1, base), None
            if self._round.phase != "done":
                reason = f"an operator went back to the version of round {version.round}"
                given_up = Result("abandoned", base.weights, self.clock(), reason=reason)
            self.rounds.begin_again(self._round, given_up, following)
            self._state, self._end, self._newest_weights = "running", None, base.weights
            self._set_round(following)
            self._result_weights = self._find_result()
            words = "run %s: back to the version of round %d"
            logger.info(words, self.name, version.round, extra=about(run=self.name, round=following.number))
            self.changed.notify_all()

    def _change(self, expected: tuple[RunState, ...], state: RunState, end: End | None) -> None:
        if self._state not in expected:
            raise RefusedError(
                f"run {self.name} is {self._state}; expected {' or '.join(expected)}",
                code="wrong_state",
                status=409,
            )
        self.store.runs.set_state(self.name, state, end)
        self._state, self._end = state, end
        logger.info("run %s is %s", self.name, state, extra=about(run=self.name))
