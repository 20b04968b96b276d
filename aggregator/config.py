"""Settings of an aggregator: plain frozen data, each default stated here and nowhere else.

    ServerConfig    the server: where it keeps things, what it bears
    RunConfig       a run to open: its name, model and RunSettings
    RunSettings     how a run trains: its rounds, strategy, measuring
    RoundSettings   how one round is run

An open round keeps the settings it was opened with, so a run opened again with other settings applies them
from its next round on.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from fedfer.aggregator.keys import Keyring
from fedfer.aggregator.limits import Limits
from fedfer.model.errors import UsageError

MAX_CLIENTS = 10_000  # the record of a larger round would be more than devices read of one answer (4 MiB)
MAX_LEARNING_RATE = 1e6  # what devices take
DATABASE_URL = "postgresql+psycopg://USER:PASSWORD@HOST/DATABASE"
DEFAULT_RUN = "default"
RUN_NAME = r"^[a-z0-9][a-z0-9_-]{0,39}$"  # also the name of a directory


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise UsageError(f"{name} is {value}; expected {expected}")


@dataclass(frozen=True)
class RoundSettings:
    """One round. It closes when `num_clients` updates are in, or at its deadline with `min_clients`.
    `learning_rate` None means the one in the model's contract."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}
    num_clients: int = 3
    min_clients: int | None = None
    deadline_sec: float = 600.0
    local_epochs: int = 3
    batch_size: int = 32
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        """Raises UsageError for numbers that cannot make a round."""
        _require(1 <= self.num_clients <= MAX_CLIENTS, "clients", self.num_clients, f"1 to {MAX_CLIENTS}")
        _require(
            1 <= self.required_clients <= self.num_clients, "min-clients", self.min_clients, "1 to clients"
        )
        _require(0 < self.deadline_sec <= 1e7, "deadline-sec", self.deadline_sec, "a number above 0")
        _require(1 <= self.local_epochs <= 10_000, "local-epochs", self.local_epochs, "1 to 10000")
        _require(1 <= self.batch_size <= 1_000_000, "batch-size", self.batch_size, "1 to 1000000")
        rate = self.learning_rate
        valid = rate is None or 0 < rate <= MAX_LEARNING_RATE
        _require(valid, "learning-rate", rate, f"a number above 0, at most {MAX_LEARNING_RATE:g}")

    @property
    def required_clients(self) -> int:
        """Updates without which a round is not closed at its deadline."""
        return self.num_clients if self.min_clients is None else self.min_clients


@dataclass(frozen=True)
class HoldoutSource:
    """Where the server's own evaluation images come from: see `fedfer.model.sources.load_images`."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}
    source: str
    skip: int = 0
    take: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class RunSettings:
    """How a run trains; JSON can hold all of it. `strategy` names the aggregation and its settings; `seed`
    decides who is selected."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}
    rounds: RoundSettings = RoundSettings()
    num_rounds: int = 6
    strategy: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({"name": "fedavg"}))
    holdout: HoldoutSource | None = None
    seed: int = 0
    keep_updates: bool = False

    def __post_init__(self) -> None:
        """Raises UsageError."""
        _require(1 <= self.num_rounds <= 1_000_000, "rounds", self.num_rounds, "1 to 1000000")
        _require(-(2**63) <= self.seed < 2**63, "seed", self.seed, "a number of 64 bits")


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
    retry_after_sec: float = 0.5  # what a device is told to wait before it asks for work again
    body_idle_sec: float = 60.0  # an upload that sends nothing for so long is given up
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
        _require(
            0 < self.token_days <= 36_500, "token-days", self.token_days, "a number above 0, at most 36500"
        )
        names = [run.name for run in self.runs]
        _require(len(set(names)) == len(names), "the list of runs", names, "each name once")
