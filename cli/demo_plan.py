"""What the demo starts: its settings as the command lines of `fedfer export`, `serve` and `devices`. Pure.

The phones hold the first images of the source and the global model is measured on those after them, so no
image is in both; a source of its own for the measuring is taken from its start.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from fedfer.model.errors import UsageError
from fedfer.model.partition_settings import PartitionSettings
from fedfer.model.settings import DROPOUT

POOL_FACTOR = 5  # images to draw skewed label mixes from, as a multiple of those that the phones will hold
MIN_PROCESSES = 3  # the article's three phones, each in a process of its own
DRAWN = "drawn"


@dataclass(frozen=True)
class DemoPlan:
    """The demo's options, under the names of its command line."""

    data: str
    devices: int
    examples_per_device: int
    rounds: int
    local_epochs: int
    batch_size: int
    learning_rate: float
    partition: str
    alpha: float
    holdout_data: str | None
    holdout_take: int
    processes: int | None
    seed: int
    runtime: str
    dropout: float = DROPOUT
    shards_per_device: int = PartitionSettings.shards_per_device

    def __post_init__(self) -> None:
        """Raises UsageError for numbers that would only fail later, in a child."""
        from fedfer.aggregator.config import RoundSettings

        counts = ("devices", "examples_per_device", "rounds", "local_epochs", "batch_size", "holdout_take")
        for name in (*counts, "num_processes"):
            if getattr(self, name) < 1:
                option = name.removeprefix("num_").replace("_", "-")
                raise UsageError(f"expected --{option} of at least 1; received {getattr(self, name)}")
        RoundSettings(
            num_clients=self.devices,
            local_epochs=self.local_epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
        )
        PartitionSettings(
            scheme=self.partition,
            alpha=self.alpha,
            shards_per_device=self.shards_per_device,
            examples_per_device=self.examples_per_device,
        )
        if not 0 <= self.dropout < 1:
            raise UsageError(f"expected --dropout of at least 0 and below 1; received {self.dropout}")

    @property
    def num_processes(self) -> int:
        if self.processes is not None:
            return self.processes
        return min(self.devices, max(MIN_PROCESSES, os.cpu_count() or 1))

    @property
    def holdout_source(self) -> str:
        return self.holdout_data or self.data

    @property
    def shares_source(self) -> bool:
        """Whether phones and measuring take their images from one source."""
        if DRAWN in (self.data, self.holdout_source):
            return self.data == self.holdout_source
        return Path(self.data).resolve() == Path(self.holdout_source).resolve()

    @property
    def pool_size(self) -> int | None:
        """Images that the phones' shares are drawn from; None: all of a file that holds nothing else."""
        held = self.devices * self.examples_per_device
        if self.partition != "dirichlet":
            return held
        return POOL_FACTOR * held if self.shares_source or self.data == DRAWN else None

    @property
    def holdout_skip(self) -> int:
        return (self.pool_size or 0) if self.shares_source else 0

    @property
    def phone_names(self) -> list[str]:
        """The names that `fedfer devices` gives."""
        return [f"phone-{number}" for number in range(self.devices)]

    def export_arguments(self, model: Path) -> list[str]:
        return [
            *_arguments("export", output=model, dropout=self.dropout),
            *_options(learning_rate=self.learning_rate, seed=self.seed),
        ]

    def serve_arguments(self, model: Path, data_dir: Path) -> list[str]:
        return [
            *_arguments("serve", data_dir=data_dir, port=0, rounds=self.rounds, clients=self.devices),
            *_options(min_clients=self.devices),  # all of them, however slow: the same seed, the same weights
            *_options(local_epochs=self.local_epochs, batch_size=self.batch_size),
            *_options(learning_rate=self.learning_rate, runtime=self.runtime),
            *_options(holdout=self.holdout_source, holdout_skip=self.holdout_skip),
            *_options(holdout_take=self.holdout_take, data_seed=self.seed),
            str(model),
        ]

    def devices_arguments(self, url: str) -> list[str]:
        return [
            *_arguments("devices", server=url, count=self.devices, processes=self.num_processes),
            *_options(data=self.data, take=self.pool_size, data_seed=self.seed),
            *_options(partition=self.partition, alpha=self.alpha, seed=self.seed, runtime=self.runtime),
            *_options(examples_per_device=self.examples_per_device),
            *_options(shards_per_device=self.shards_per_device),
        ]

    def title(self) -> str:
        what = "drawn faces" if self.data == DRAWN else f"images of {Path(self.data).name}"
        how = f"Dirichlet({self.alpha:g})" if self.partition == "dirichlet" else self.partition
        return (
            f"{self.devices} phones, {self.examples_per_device} {what} each ({how}), "
            f"{self.local_epochs} local epoch{'s' if self.local_epochs > 1 else ''} a round"
        )


def _arguments(command: str, **options: object) -> list[str]:
    return [command, *_options(**options)]


def _options(**options: object) -> list[str]:
    """`--name=value` for each that is given: a value that begins with a dash stays a value."""
    given = {name: value for name, value in options.items() if value is not None}
    return [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
