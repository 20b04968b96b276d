"""One run: what it is, where it stands, and how time passes for it. `runs` adds what devices, the closer and
operators do to it.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fedfer.aggregator import history, rounds
from fedfer.aggregator.config import RoundSettings, RunSettings, ServerConfig
from fedfer.aggregator.device_store import Device
from fedfer.aggregator.fleet import DURATIONS, Fleet
from fedfer.aggregator.gates import Rejection
from fedfer.aggregator.logs import about
from fedfer.aggregator.results import End
from fedfer.aggregator.round_opening import opening_settings
from fedfer.aggregator.rounds import Base, Round
from fedfer.aggregator.run_files import parse_settings
from fedfer.aggregator.run_store import RunRow, RunState
from fedfer.aggregator.store import Store
from fedfer.aggregator.strategies.registry import make_strategy
from fedfer.aggregator.version_store import Version
from fedfer.aggregator.versions import Versions
from fedfer.aggregator.work import Ask
from fedfer.export.checkpoint import max_checkpoint_bytes
from fedfer.export.contract import Contract
from fedfer.model.errors import StoreError

logger = logging.getLogger("fedfer.aggregator")


class RunCore:
    """State of one run. `changed` guards it, held by `changing`, and wakes whoever waits for a round to
    close."""

    def __init__(
        self,
        row: RunRow,
        store: Store,
        contract: Contract,
        clock: Callable[[], float],
        server: ServerConfig,
        holdout_examples: int = 0,
    ) -> None:
        """Raises StoreError if the store has no round of it, UsageError for settings that cannot be read."""
        self.name, self.model, self.contract, self.clock = row.name, row.model, contract, clock
        self.settings: RunSettings = parse_settings(row.settings)
        self.strategy = make_strategy(self.settings.strategy)
        self.store, self.rounds, self.blobs = store, store.rounds(row.name), store.blobs
        self.versions, self.refusals = Versions(row.name, store, clock), store.refusals(row.name)
        self.holdout_examples = holdout_examples
        self.changed, self._is_doubtful = threading.Condition(), False
        self._asks = list[Ask]()  # of devices that wait for `changed`
        self.fleet = Fleet(store.devices, contract.digest, server, clock)
        self.fleet.note_durations(*self.rounds.last_durations_sec(DURATIONS))
        self._load(row)

    def _load(self, row: RunRow) -> None:
        """Where the run stands, from the database."""
        latest = self.rounds.latest()
        if latest is None:
            raise StoreError(f"run {row.name} has no round; restore a copy of the database")
        self._state: RunState = row.state
        self._end: End | None = row.end
        self._round, result = latest
        self._newest_weights = result or self._round.base.weights
        self._result_weights = self._find_result()
        self._rejected = self._load_rejected()

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Holds `changed`. Whether a transaction that failed was made durable is not known, if it was the
        answer of PostgreSQL that got lost: then the next one in here first looks. Raises StoreError."""
        with self.changed:
            if self._is_doubtful:
                row = self.store.runs.find(self.name)
                if row is None:
                    raise StoreError(f"run {self.name} is not in the database; restore a copy of it")
                self._load(row)
                self._round = rounds.resume(self._round, self.clock())
                self._is_doubtful = False
                self.changed.notify_all()
            try:
                yield
            except StoreError:
                self._is_doubtful = True
                raise

    @property
    def round_(self) -> Round:
        return self._round

    @property
    def newest_weights(self) -> str:
        return self._newest_weights

    @property
    def result_weights(self) -> str:
        """The best version of a run that stops at its plateau, the newest of any other."""
        return self._result_weights

    @property
    def best_weights(self) -> str | None:
        """The version with the best holdout measure; None without a holdout set."""
        return history.best_of(self._lineage(), self.settings)

    @property
    def state(self) -> RunState:
        return self._state

    @property
    def end(self) -> End | None:
        return self._end

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

    def waits_for(self) -> str | None:
        """In words, what the open round waits for; None if the run is over."""
        if self._state != "running":
            return "an operator, who paused it" if self._state == "paused" else None
        return rounds.waits_for(self._round, self.fleet.num_active())

    def start_up(self) -> None:
        """After a start: opens another round if more are wanted now, else gives devices time to return."""
        newest = self._round
        if newest.phase != "done":
            self._round = rounds.resume(newest, self.clock())
        elif self._end and self._end.reason == "rounds" and newest.number < self.settings.num_rounds:
            version = self.versions.of_weights(self._newest_weights)
            base = Base(version.weights, version.round, version.state)
            following = self._opened(newest.number + 1, base)
            self.rounds.begin_again(newest, None, following)
            self._state, self._end, self._round = "running", None, following

    def pass_deadline(self) -> None:
        """Lets the deadline have its effect if its time has come; needs `changed` held. Raises StoreError."""
        now = self.clock()
        if self._state != "running" or now < self._round.deadline_at:
            return
        after = rounds.tick(self._round, now, self.fleet.num_active())
        if after is self._round:
            return
        self.rounds.pass_deadline(after)
        if after.phase == "open":
            logger.info(
                "run %s round %d: deadline renewed; it waits for %s",
                self.name,
                after.number,
                self.waits_for(),
                extra=about(run=self.name, round=after.number),
            )
        self._set_round(after)

    def _opened(self, number: int, base: Base) -> Round:
        settings = self.round_settings
        busy = self.rounds.busy(number, settings)
        return rounds.open_round(number, base, settings, self.clock(), busy)

    @property
    def round_settings(self) -> RoundSettings:
        """What the next round is opened with."""
        return opening_settings(self.settings)

    def _find_result(self) -> str:
        if self.settings.stopping is None:
            return self._newest_weights
        return self.best_weights or self._newest_weights

    def _lineage(self) -> list[Version]:
        newest = self.versions.of_weights(self._newest_weights)
        return history.lineage(self.versions.all(), newest.round)

    def _load_rejected(self) -> dict[str, tuple[int, Rejection]]:
        return self.rounds.last_rejections(self._round.number - (self._round.phase != "done"))

    def _set_round(self, after: Round) -> None:
        self._round = after
        if after.phase != "open" or after.selected_at is not None:
            self.changed.notify_all()
