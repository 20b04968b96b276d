"""Settings of an aggregator: plain frozen data, each default stated here and nowhere else.

`RoundSettings` is what a round is run with; an open round keeps the settings it was opened with, so a
server started again with other settings applies them from its next round on.
"""

from dataclasses import dataclass, field
from pathlib import Path

from fedfer.aggregator.keys import Keyring
from fedfer.aggregator.limits import Limits
from fedfer.model.errors import UsageError

MAX_CLIENTS = 10_000  # the record of a larger round would be more than devices read of one answer (4 MiB)
MAX_LEARNING_RATE = 1e6  # what devices take


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise UsageError(f"{name} is {value}; expected {expected}")


@dataclass(frozen=True)
class RoundSettings:
    """One round. It closes when `num_clients` updates are in, or at its deadline with `min_clients`.
    `learning_rate` None means the one in the model's contract."""

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

    source: str
    skip: int = 0
    take: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class ServerConfig:
    """Everything `create_app` needs. `initial_weights` None means those in the model file;
    `database_url` None means SQLite in `data_dir`."""

    model: Path
    data_dir: Path
    initial_weights: Path | None = None
    rounds: RoundSettings = RoundSettings()
    num_rounds: int = 6
    holdout: HoldoutSource | None = None
    runtime: str = "auto"
    keep_updates: bool = False
    database_url: str | None = None
    retry_after_sec: float = 0.5  # what a device is told to wait before it asks for work again
    body_idle_sec: float = 60.0  # an upload that sends nothing for so long is given up
    max_devices: int = 100_000
    max_concurrent_checks: int = 4  # uploads whose tensors are checked at a time
    limits: Limits = field(default_factory=Limits)
    keyring: Keyring = field(default_factory=Keyring)

    def __post_init__(self) -> None:
        """Raises UsageError."""
        _require(1 <= self.num_rounds <= 1_000_000, "rounds", self.num_rounds, "1 to 1000000")
