"""The thread that closes a run's rounds: waits for the last update or the deadline, averages, evaluates,
commits.

What it commits is a function of the round's updates alone, so a round whose closing was cut short is
simply closed again. A failure (disk full, a file gone) is logged and tried again; devices wait meanwhile.
"""

import logging
import threading
import time

from fedfer.aggregator.average import weighted_mean
from fedfer.aggregator.metrics import Metrics
from fedfer.aggregator.model_runs import measure_version
from fedfer.aggregator.round_store import Result, result_of
from fedfer.aggregator.rounds import Round
from fedfer.aggregator.runs import Run
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

    def __init__(self, run: Run, holdout: LabelledImages | None, runtime: str, metrics: Metrics) -> None:
        self._run, self._holdout, self._runtime = run, holdout, runtime
        self._metrics, self._trouble = metrics, ""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._close_rounds, name=f"closer {run.name}", daemon=True)

    @property
    def problem(self) -> tuple[str, str] | None:
        """The run's name and why its round cannot be closed, None if all is well."""
        ended = "" if self._thread.is_alive() or self._stopping.is_set() else "its thread has ended"
        return (self._run.name, self._trouble or ended) if self._trouble or ended else None

    def start(self) -> None:
        self._thread.start()

    def ask_to_stop(self) -> None:
        self._stopping.set()
        with self._run.changed:
            self._run.changed.notify_all()

    def stop(self) -> None:
        """Waits a moment for what is being committed; an evaluation that runs is left and repeated later."""
        self.ask_to_stop()
        self._thread.join(STOP_PATIENCE_SEC)

    def _close_rounds(self) -> None:
        pause_sec = FIRST_PAUSE_SEC
        while not self._stopping.is_set():
            try:
                closing = self._wait_for_close()
                if closing is not None:
                    with self._metrics.stage("close"):
                        self._close(closing)
                    self._metrics.round_closed(self._run.name)
                self._trouble, pause_sec = "", FIRST_PAUSE_SEC
            except Exception as error:
                bug = None if isinstance(error, FedferError) else error
                self._trouble = str(error) or type(error).__name__
                self._metrics.close_failed(self._run.name)
                logger.error(
                    "run %s: cannot close the round (%s); next try in %.0f s",
                    self._run.name,
                    error,
                    pause_sec,
                    exc_info=bug,
                )
                self._stopping.wait(pause_sec)
                pause_sec = min(2 * pause_sec, MAX_PAUSE_SEC)

    def _wait_for_close(self) -> Round | None:
        """The round once it is to be aggregated; None when there was nothing to do for a while."""
        run = self._run
        with run.changed:
            run.pass_deadline()
            round_ = run.round_
            if round_.phase == "aggregating" and not run.is_over:
                return round_
            ticking = round_.phase == "open" and run.state == "running"
            left_sec = round_.deadline_at - run.clock() if ticking else MAX_WAIT_SEC
            if not self._stopping.is_set():
                run.changed.wait(min(max(left_sec, 0.0), MAX_WAIT_SEC))
        return None

    def _close(self, round_: Round) -> None:
        run, started = self._run, time.monotonic()
        weights = self._average(round_)
        averaged_sec = time.monotonic() - started
        result = self._measured(weights)
        if self._stopping.is_set():
            return
        run.commit(round_, result)
        if not run.settings.keep_updates:
            run.blobs.drop_updates(run.name, round_.number)
        logger.info(
            "run %s round %d done: weights %s%s (averaged %d updates in %.3f s, closed in %.3f s)",
            run.name,
            round_.number,
            weights,
            _measures_text(result),
            len(round_.updates),
            averaged_sec,
            time.monotonic() - started,
        )
        log_state(run)

    def _average(self, round_: Round) -> str:
        """Writes the candidate version; returns its sha256."""
        run = self._run
        mean = weighted_mean(
            (
                WeightedFile(
                    u.sha256,
                    u.num_examples,
                    u.device_id,
                    run.blobs.checked(run.blobs.update_path(run.name, round_.number, u.sha256)),
                )
                for u in round_.updates.values()
            ),
            run.contract,
        )
        data = checkpoint_bytes(mean, run.contract)
        sha256 = digest_of(data)
        try:
            run.blobs.write(data, run.blobs.version_path(sha256))
        except OSError as error:
            raise StoreError(f"cannot write version {sha256}: {error.strerror}") from None
        return sha256

    def _measured(self, weights: str) -> Result:
        """The result with its holdout measures; without them if evaluation fails twice, which is logged."""
        run = self._run
        model = run.blobs.present(run.blobs.model_path(run.model))
        version = run.blobs.present(run.blobs.version_path(weights))
        measures: Measures | None = None
        for _ in range(EVALUATION_TRIES):
            try:
                measures = measure_version(model, version, self._holdout, self._runtime)
                break
            except FedferError as error:  # also when Ctrl-C reached the evaluating process first
                logger.error("cannot evaluate %s: %s", weights, error)
                self._stopping.wait(FIRST_PAUSE_SEC)
        return result_of(weights, run.clock(), measures)


def log_state(run: Run) -> None:
    """Says which round is open, or that training is over."""
    round_ = run.round_
    if run.is_over:
        logger.info(
            "run %s is %s (%s) after %d rounds: weights %s",
            run.name,
            run.state,
            run.stop_reason,
            round_.number,
            run.newest_weights,
        )
        return
    logger.info(
        "run %s round %d %s: from %s, %d clients wanted, %d updates in",
        run.name,
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
