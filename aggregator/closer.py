"""The thread that closes a run's rounds: waits for the last update or the deadline, averages, evaluates,
commits.

What it commits is a function of the round's updates alone, so a round whose closing was cut short is
simply closed again. A failure (disk full, a file gone) is logged and tried again; devices wait meanwhile.
"""

import logging
import threading
import time
from pathlib import Path

from fedfer.aggregator.closing import (
    RoundFiles,
    aggregate,
    files_of,
    rejections_of,
    result_of,
    without_candidate,
)
from fedfer.aggregator.faults import reach
from fedfer.aggregator.gates import Rejection
from fedfer.aggregator.logs import about
from fedfer.aggregator.metrics import Metrics
from fedfer.aggregator.model_runs import measure_version
from fedfer.aggregator.results import Result
from fedfer.aggregator.rounds import Round
from fedfer.aggregator.runs import Run
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
        try:
            self._run.refusals.write()
        except StoreError as error:
            logger.error("run %s: %s", self._run.name, error, extra=about(run=self._run.name))

    def _close_rounds(self) -> None:
        pause_sec = FIRST_PAUSE_SEC
        while not self._stopping.is_set():
            try:
                closing = self._wait_for_close()
                if closing is not None:
                    with self._metrics.stage("close"):
                        result = self._close(closing)
                    if result is not None:
                        self._metrics.round_closed(self._run.name, result.outcome)
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
                    extra=about(run=self._run.name),
                )
                self._stopping.wait(pause_sec)
                pause_sec = min(2 * pause_sec, MAX_PAUSE_SEC)

    def _wait_for_close(self) -> Round | None:
        """The round once it is to be aggregated; None when there was nothing to do for a while."""
        run = self._run
        with run.changing():
            run.pass_deadline()
            round_ = run.round_
            if round_.phase == "aggregating" and not run.is_over:
                return round_
            ticking = round_.phase == "open" and run.state == "running" and round_.selected_at is not None
            left_sec = round_.deadline_at - run.clock() if ticking else MAX_WAIT_SEC
            if not self._stopping.is_set():
                run.changed.wait(min(max(left_sec, 0.0), MAX_WAIT_SEC))
        run.refusals.write_if_due()
        return None

    def _close(self, round_: Round) -> Result | None:
        """What the round ended with; None if it was given up meanwhile."""
        run, started = self._run, time.monotonic()
        reach("round_full")
        files = files_of(round_, run.name, run.blobs, run.rounds.base_of)
        rejected = rejections_of(files, run.settings, run.contract, self._measure)
        reach("gates_passed")
        kept = [file for key, file in files.updates.items() if key not in rejected]
        strategy = run.strategy.after_gates(len(kept)) if rejected else run.strategy
        made, averaged_sec = None, 0.0
        with run.store.claims.held() as claim:
            if len(kept) < strategy.min_updates:
                result = without_candidate(round_, rejected, strategy.min_updates, run.clock())
            else:
                begun = time.monotonic()
                with self._metrics.stage("average"):
                    made = aggregate(files, kept, strategy, run.contract, run.blobs, claim)
                averaged_sec = time.monotonic() - begun
                measures = self._parent_measures(files), self._measured(made.weights)
                reach("measured")
                result = result_of(round_, made, measures, run.settings, rejected, run.clock())
            if self._stopping.is_set():
                return None
            is_taken = result.outcome == "committed" and run.commit(round_, result)
        if made is not None and not is_taken:  # before the commit: if it is cut short, all this is done again
            run.versions.drop_files(made.weights, [made.state] if made.state else [])
            reach("candidate_dropped")
        if not is_taken and (result.outcome == "committed" or not run.commit(round_, result)):
            return None
        self._tidy(round_)
        seconds = averaged_sec, time.monotonic() - started
        log_closed(run, round_, result, len(kept), *seconds)
        for key, rejection in rejected.items():
            self._tell_of(round_, key[0], rejection)
        log_state(run)
        return result

    def _tell_of(self, round_: Round, device: str, rejection: Rejection) -> None:
        run = self._run.name
        logger.info(
            "run %s round %d: turned away %s: %s: %s",
            run,
            round_.number,
            device,
            rejection.code,
            rejection.reason,
            extra=about(run=run, round=round_.number, device=device, code=rejection.code),
        )
        self._metrics.turned_away(run, rejection.code)

    def _tidy(self, round_: Round) -> None:
        """Deletes what is not needed any more; what cannot be deleted stays, and harms nothing."""
        run = self._run
        if not run.settings.keep_updates:
            run.blobs.drop_updates(run.name, round_.number)
            reach("updates_dropped")
        try:
            run.drop_versions()
        except StoreError as error:
            logger.error("run %s: cannot delete old versions: %s", run.name, error)

    def _parent_measures(self, files: RoundFiles) -> Measures | None:
        """The parent's measures, if a gate needs them."""
        if self._run.settings.gates.max_candidate_drop is None:
            return None
        measures = self._measure(files.parent)
        reach("parent_measured")
        return measures

    def _measure(self, weights: Path) -> Measures | None:
        """Raises InterpreterError; the round is then closed again later."""
        run = self._run
        model, version = run.blobs.present(run.blobs.model_path(run.model)), run.blobs.present(weights)
        with self._metrics.stage("evaluate"):
            return measure_version(model, version, self._holdout, self._runtime)

    def _measured(self, weights: str) -> Measures | None:
        """The candidate's measures; none if evaluation fails twice, which is logged, unless a decision hangs
        on them. Raises InterpreterError."""
        settings = self._run.settings
        for left in range(EVALUATION_TRIES, 0, -1):
            try:
                return self._measure(self._run.blobs.version_path(weights))
            except FedferError as error:  # also when Ctrl-C reached the evaluating process first
                logger.error("cannot evaluate %s: %s", weights, error, extra=about(run=self._run.name))
                if left == 1 and (settings.stopping or settings.gates.max_candidate_drop is not None):
                    raise
                self._stopping.wait(FIRST_PAUSE_SEC)
        return None


def log_closed(
    run: Run, round_: Round, result: Result, num_kept: int, averaged_sec: float, closed_sec: float
) -> None:
    """Says how a round ended."""
    logger.info(
        "run %s round %d done: %s, weights %s%s (averaged %d updates in %.3f s, closed in %.3f s)",
        run.name,
        round_.number,
        result.outcome.replace("_", " "),
        result.weights,
        _measures_text(result),
        num_kept,
        averaged_sec,
        closed_sec,
        extra=about(run=run.name, round=round_.number),
    )


def log_state(run: Run) -> None:
    """Says which round is open, or that training is over."""
    round_ = run.round_
    if run.is_over:
        logger.info(
            "run %s is %s after %d rounds (%s): weights %s",
            run.name,
            run.state,
            round_.number,
            run.end.text if run.end else "",
            run.result_weights,
            extra=about(run=run.name, round=round_.number),
        )
        return
    logger.info(
        "run %s round %d %s: from %s, %d clients wanted, %d updates in",
        run.name,
        round_.number,
        round_.phase,
        round_.base.weights,
        round_.settings.num_clients,
        len(round_.updates),
        extra=about(run=run.name, round=round_.number),
    )


def _measures_text(result: Result) -> str:
    if result.holdout_loss is None or result.holdout_accuracy is None:
        return ""
    return f", holdout loss {result.holdout_loss:.4f}, accuracy {result.holdout_accuracy:.3f}"
