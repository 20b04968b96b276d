"""Settings of an aggregator: plain frozen data, each default stated here and nowhere else.

    ServerConfig    the server: where it keeps things, what it bears
    RunConfig       a run to open: its name, model and RunSettings
    RunSettings     how a run trains: its rounds, strategy, measuring
    RoundSettings   how one round is run

An open round keeps the settings it was opened with, so a run opened again with other settings applies them
from its next round on.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fedfer.aggregator.gates import GateSettings
from fedfer.aggregator.keys import Keyring
from fedfer.aggregator.limits import Limits
from fedfer.aggregator.pace import Pace
from fedfer.aggregator.retention import RetentionSettings
from fedfer.aggregator.stopping import StoppingSettings
from fedfer.model.errors import UsageError

MAX_CLIENTS = 10_000  # the record of a larger round would be more than devices read of one answer (4 MiB)
MAX_DEVICES = 1_000_000
MAX_RUNS = 1000  # each has a thread
MAX_CHECKS = 256  # at a time; each holds tensors in memory
MAX_LEARNING_RATE = 1e6  # what devices take
DATABASE_URL = "postgresql+psycopg://USER:PASSWORD@HOST/DATABASE"
DEFAULT_RUN = "default"
LEAST_DECAYED = 1e-6  # of the first learning rate
RUN_NAME = r"^[a-z0-9][a-z0-9_-]{0,39}$"  # also the name of a directory


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise UsageError(f"{name} is {value}; expected {expected}")


@dataclass(frozen=True)
class RoundSettings:
    """One round. It closes when `num_clients` updates are in, or at its deadline with `min_clients` (None:
    half of those wanted or there). `fraction` of the active devices stands for `num_clients` when given.
    `over_selection` places are given for each update wanted; for `selection_sec` they are kept for the
    devices that were drawn. Nothing begins before `min_devices` are there. `learning_rate` None means the one
    in the model's contract; each round's is `learning_rate_decay` times that of the round before, as McMahan
    et al. 2017 had it for CIFAR. `mode` "async" makes rounds buffers that take updates up to `max_staleness`
    rounds old, of which at most `max_training` devices have work at a time (None: whoever asks)."""

    num_clients: int = 3
    min_clients: int | None = None
    deadline_sec: float = 600.0
    local_epochs: int = 3
    batch_size: int = 32
    learning_rate: float | None = None
    learning_rate_decay: float = 1.0
    fraction: float | None = None
    over_selection: float = 1.3
    selection_sec: float = 30.0
    min_devices: int = 1
    mode: str = "sync"
    max_staleness: int = 10
    max_training: int | None = None
    min_updates: int = 1  # of the strategy: set from it when the round is opened

    def __post_init__(self) -> None:
        """Raises UsageError for numbers that cannot make a round."""
        rate, share, least = self.learning_rate, self.fraction, self.min_clients
        _require(1 <= self.num_clients <= MAX_CLIENTS, "clients", self.num_clients, f"1 to {MAX_CLIENTS}")
        fits = least is None or 1 <= least <= (self.num_clients if share is None else MAX_CLIENTS)
        _require(fits, "min-clients", least, "1 to clients")
        _require(0 < self.deadline_sec <= 1e7, "deadline-sec", self.deadline_sec, "a number above 0")
        _require(1 <= self.local_epochs <= 10_000, "local-epochs", self.local_epochs, "1 to 10000")
        _require(1 <= self.batch_size <= 1_000_000, "batch-size", self.batch_size, "1 to 1000000")
        valid = rate is None or 0 < rate <= MAX_LEARNING_RATE
        _require(valid, "learning-rate", rate, f"a number above 0, at most {MAX_LEARNING_RATE:g}")
        decay = self.learning_rate_decay
        _require(0 < decay <= 1, "learning-rate-decay", decay, "a number above 0, at most 1")
        _require(share is None or 0 < share <= 1, "fraction", share, "a number above 0, at most 1")
        _require(1 <= self.over_selection <= 10, "over-selection", self.over_selection, "1 to 10")
        _require(0 <= self.selection_sec <= 1e7, "selection-sec", self.selection_sec, "a number from 0 on")
        _require(1 <= self.min_devices <= MAX_DEVICES, "min-devices", self.min_devices, f"1 to {MAX_DEVICES}")
        _require(self.mode in ("sync", "async"), "mode", self.mode, "sync or async")
        _require(0 <= self.max_staleness <= 10_000, "max-staleness", self.max_staleness, "0 to 10000")
        most = self.max_training
        _require(most is None or 1 <= most <= MAX_DEVICES, "max-training", most, f"1 to {MAX_DEVICES}")
        _require(1 <= self.min_updates <= MAX_CLIENTS, "min-updates", self.min_updates, f"1 to {MAX_CLIENTS}")

    @property
    def num_places(self) -> int:
        """Devices that may train at a time: ceil(over_selection * num_clients)."""
        return math.ceil(round(self.over_selection * self.num_clients, 6))

    @property
    def is_async(self) -> bool:
        return self.mode == "async"

    def learning_rate_of(self, number: int, of_model: float) -> float:
        """Of devices' steps in round `number`, from 1; `of_model` is the rate in the model's contract. A
        millionth of the first is the least: with none at all they would train nothing."""
        first = of_model if self.learning_rate is None else self.learning_rate
        return first * max(self.learning_rate_decay ** (number - 1), LEAST_DECAYED)


@dataclass(frozen=True)
class HoldoutSource:
    """Where the server's own evaluation images come from: see `fedfer.model.sources.load_images`."""

    source: str = "drawn"
    skip: int = 0
    take: int | None = None
    seed: int = 0
    usage: str | None = None


@dataclass(frozen=True)
class RunSettings:
    """How a run trains; JSON can hold all of it. `strategy` names the aggregation and its settings; `seed`
    decides who is selected; without `stopping` the run goes on for `num_rounds`."""

    rounds: RoundSettings = RoundSettings()
    num_rounds: int = 6
    strategy: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({"name": "fedavg"}))
    holdout: HoldoutSource | None = None
    stopping: StoppingSettings | None = None
    gates: GateSettings = field(default_factory=GateSettings)
    retention: RetentionSettings = field(default_factory=RetentionSettings)
    seed: int = 0
    keep_updates: bool = False

    def __post_init__(self) -> None:
        """Raises UsageError."""
        _require(1 <= self.num_rounds <= 1_000_000, "rounds", self.num_rounds, "1 to 1000000")
        _require(-(2**63) <= self.seed < 2**63, "seed", self.seed, "a number of 64 bits")
        gates = self.gates
        measured = self.stopping is not None or gates.max_update_drop is not None
        measured |= gates.max_candidate_drop is not None
        _require(
            not measured or self.holdout is not None, "holdout", None, "images: stopping and gates need some"
        )


@dataclass(frozen=True)
class RunConfig:
    """A run to open, new or gone on with. `initial_weights` None means those in the model file."""

    model: Path
    name: str = DEFAULT_RUN
    initial_weights: Path | None = None
    settings: RunSettings = RunSettings()

    def __post_init__(self) -> None:
        """Raises UsageError."""
        fits = re.match(RUN_NAME, self.name) and not self.name.endswith("\n")
        _require(bool(fits), "run name", repr(self.name), "1 to 40 of a-z, 0-9, - and _")


@dataclass(frozen=True)
class ServerConfig:
    """Everything `create_app` needs. `runs` are opened at start, beside those that `data_dir` holds;
    `database_url` None means SQLite in `data_dir`, `weights_url` None that all files are there alone."""

    data_dir: Path
    runs: tuple[RunConfig, ...] = ()
    runtime: str = "auto"
    database_url: str | None = None
    weights_url: str | None = None
    cache_bytes: float = 10e9  # of models and versions in `data_dir` when the bucket has them all
    pace: Pace = field(default_factory=Pace)  # when waiting devices are told to ask again
    active_sec: float = 3600.0  # a device that was silent for longer is not counted on
    body_idle_sec: float = 60.0  # an upload that sends nothing for so long is given up
    grace_sec: int = 10  # when the server is stopped: for calls that are being answered
    max_devices: int = 100_000
    max_concurrent_checks: int = 4  # uploads whose tensors are checked at a time
    max_runs: int = 100
    limits: Limits = field(default_factory=Limits)
    keyring: Keyring = field(default_factory=Keyring)
    token_days: float = 90.0  # how long a device's token holds

    def __post_init__(self) -> None:
        """Raises UsageError."""
        scheme = (self.database_url or DATABASE_URL).partition("://")[0]
        _require(scheme == DATABASE_URL.partition("://")[0], "database-url", scheme, DATABASE_URL)
        spans = (
            ("token-days", self.token_days, 36_500),
            ("active-sec", self.active_sec, 1_000_000_000),
            ("body-idle-sec", self.body_idle_sec, 86_400),
        )
        for name, span, most in spans:
            _require(0 < span <= most, name, span, f"a number above 0, at most {most}")
        counts = (
            ("max-devices", self.max_devices, MAX_DEVICES),
            ("max-runs", self.max_runs, MAX_RUNS),
            ("max-concurrent-checks", self.max_concurrent_checks, MAX_CHECKS),
        )
        for name, count, most in counts:
            _require(1 <= count <= most, name, count, f"1 to {most}")
        names = [run.name for run in self.runs]
        _require(len(set(names)) == len(names), "the list of runs", names, "each name once")
