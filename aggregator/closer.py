"""The thread that closes rounds: waits for the last update or the deadline, averages, evaluates, commits.

What it commits is a function of the round's updates alone, so a round whose closing was cut short is
simply closed again. A failure (disk full, a file gone) is logged and tried again; devices wait meanwhile.
"""

import logging
import threading
import time

from fedfer.aggregator import rounds
from fedfer.aggregator.average import weighted_mean
from fedfer.aggregator.model_runs import measure_version
from fedfer.aggregator.rounds import Round
from fedfer.aggregator.service import Service, done
from fedfer.aggregator.store import Result, result_of
from fedfer.aggregator.update_reader import WeightedFile
from fedfer.export.checkpoint import checkpoint_bytes, digest_of
from fedfer.model.data import LabelledImages
from fedfer.model.errors import FedferError, StoreError
from fedfer.model.measures import Measures

MAX_WAIT_SEC = 60.0
FIRST_PAUSE_SEC, MAX_PAUSE_SEC = 1.0, 60.0
STOP_PATIENCE_SEC = 2.0
EVALUATION_TRIES = 2
logger = logging.getLogger("fedfer.aggregator")


class Closer:
    """Runs in a daemon thread from `start` to `stop`."""

    def __init__(self, service: Service, holdout: LabelledImages | None) -> None:
        self._service, self._holdout = service, holdout
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="closer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Waits a moment for what is being committed; an evaluation that runs is left and repeated later."""
        self._stopping.set()
        with self._service.changed:
            self._service.changed.notify_all()
        self._thread.join(STOP_PATIENCE_SEC)

    def _run(self) -> None:
        pause_sec = FIRST_PAUSE_SEC
        while not self._stopping.is_set():
            try:
                closing = self._wait_for_close()
                if closing is not None:
                    self._close(closing)
                pause_sec = FIRST_PAUSE_SEC
            except Exception as error:
                bug = None if isinstance(error, FedferError) else error
                logger.error(
                    "cannot close the round (%s); next try in %.0f s", error, pause_sec, exc_info=bug
                )
                self._stopping.wait(pause_sec)
                pause_sec = min(2 * pause_sec, MAX_PAUSE_SEC)

    def _wait_for_close(self) -> Round | None:
        """The round once it is to be aggregated; None when there was nothing to do for a while."""
        service = self._service
        with service.changed:
            service.pass_deadline()
            round_ = service.round_
            if round_.phase == "aggregating":
                return round_
            left_sec = round_.deadline_at - service.clock() if round_.phase == "open" else MAX_WAIT_SEC
            if not self._stopping.is_set():
                service.changed.wait(min(max(left_sec, 0.0), MAX_WAIT_SEC))
        return None

    def _close(self, round_: Round) -> None:
        service, started = self._service, time.monotonic()
        weights = self._average(round_)
        averaged_sec = time.monotonic() - started
        result = self._measured(weights)
        if self._stopping.is_set():
            return
        following = self._following(round_, weights)
        service.store.finish(round_.number, result, following)
        service.advance(following or done(round_), weights)
        if not service.config.keep_updates:
            service.store.blobs.drop_updates(round_.number)
        total_sec = time.monotonic() - started
        logger.info(
            "round %d done: weights %s%s (averaged %d updates in %.3f s, closed in %.3f s)",
            round_.number,
            weights,
            _measures_text(result),
            len(round_.updates),
            averaged_sec,
            total_sec,
        )
        log_state(service)

    def _average(self, round_: Round) -> str:
        """Writes the candidate version; returns its sha256."""
        blobs, contract = self._service.store.blobs, self._service.contract
        mean = weighted_mean(
            (
                WeightedFile(
                    u.sha256, u.num_examples, u.device_id, blobs.update_path(round_.number, u.sha256)
                )
                for u in round_.updates.values()
            ),
            contract,
        )
        data = checkpoint_bytes(mean, contract)
        sha256 = digest_of(data)
        try:
            blobs.write(data, blobs.version_path(sha256))
        except OSError as error:
            raise StoreError(f"cannot write version {sha256}: {error.strerror}") from None
        return sha256

    def _measured(self, weights: str) -> Result:
        """The result with its holdout measures; without them if evaluation fails twice, which is logged."""
        service, blobs = self._service, self._service.store.blobs
        model, version = blobs.model_path(service.model), blobs.version_path(weights)
        measures: Measures | None = None
        for _ in range(EVALUATION_TRIES):
            try:
                measures = measure_version(model, version, self._holdout, service.config.runtime)
                break
            except FedferError as error:  # also when Ctrl-C reached the evaluating process first
                logger.error("cannot evaluate %s: %s", weights, error)
                self._stopping.wait(FIRST_PAUSE_SEC)
        return result_of(weights, service.clock(), measures)

    def _following(self, round_: Round, weights: str) -> Round | None:
        service = self._service
        if round_.number >= service.config.num_rounds:
            return None
        return rounds.open_round(round_.number + 1, weights, service.config.rounds, service.clock())


def log_state(service: Service) -> None:
    """Says which round is open, or that training is over."""
    round_ = service.round_
    if service.is_finished:
        logger.info("training finished after %d rounds: weights %s", round_.number, service.newest_weights)
        return
    logger.info(
        "round %d %s: from %s, %d clients wanted, %d updates in",
        round_.number,
        round_.phase,
        round_.base_weights,
        round_.settings.num_clients,
        len(round_.updates),
    )


def _measures_text(result: Result) -> str:
    if result.holdout_loss is None or result.holdout_accuracy is None:
        return ""
    return f", holdout loss {result.holdout_loss:.4f}, accuracy {result.holdout_accuracy:.3f}"
