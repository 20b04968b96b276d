"""How images are shared out among devices, as settings. `fedfer.model.partition` says what schemes do."""

from dataclasses import dataclass
from typing import Literal, get_args

from fedfer.model.errors import UsageError

Scheme = Literal["contiguous", "iid", "dirichlet", "shards", "power", "column"]
SCHEMES: tuple[str, ...] = get_args(Scheme)
MIN_ALPHA, MAX_ALPHA = 1e-3, 1e6  # beyond them the gamma draws under- or overflow, and nothing changes
MAX_EXPONENT = 10.0
MAX_SHARDS = 10_000  # of a device
# Their sizes say how many images a device holds, so that nothing is left to ask for.
SIZED_SCHEMES = ("power", "column")


@dataclass(frozen=True)
class PartitionSettings:
    """How images are shared out; `[partition]` of a scenario. `alpha` is for dirichlet (small is skewed),
    `shards_per_device` for shards, `exponent` for power (0 is even), `column` names the CSV's column. With
    `examples_per_device` every device gets exactly so many; without, all images are given out."""

    scheme: str = "contiguous"
    alpha: float = 0.5
    shards_per_device: int = 2
    exponent: float = 1.0
    column: str | None = None
    examples_per_device: int | None = None

    def __post_init__(self) -> None:
        """Raises UsageError for settings that make no partition."""
        if self.scheme not in SCHEMES:
            raise UsageError(f"expected a partition of {', '.join(SCHEMES)}; received {self.scheme!r}")
        if not MIN_ALPHA <= self.alpha <= MAX_ALPHA:
            raise UsageError(f"expected an alpha of {MIN_ALPHA:g} to {MAX_ALPHA:g}; received {self.alpha}")
        if not 0 <= self.exponent <= MAX_EXPONENT:
            raise UsageError(f"expected an exponent of 0 to {MAX_EXPONENT:g}; received {self.exponent}")
        if not 1 <= self.shards_per_device <= MAX_SHARDS:
            raise UsageError(
                f"expected 1 to {MAX_SHARDS} shards per device; received {self.shards_per_device}"
            )
        if (self.scheme == "column") != (self.column is not None):
            raise UsageError(
                "the partition `column` and the name of a column go together; "
                f"received the partition {self.scheme} and the column {self.column!r}"
            )
        self._check_examples_per_device()

    def _check_examples_per_device(self) -> None:
        per_device = self.examples_per_device
        if per_device is None:
            return
        if per_device < 1:
            raise UsageError(f"expected one or more examples per device; received {per_device}")
        if self.scheme in SIZED_SCHEMES:
            raise UsageError(
                f"the partition {self.scheme} decides how many images a device holds; "
                f"received {per_device} examples per device: leave them out"
            )
        if self.scheme == "shards" and per_device % self.shards_per_device:
            raise UsageError(
                f"expected examples per device in whole shards, {self.shards_per_device} a device; "
                f"received {per_device} examples"
            )

    @property
    def least_examples(self) -> int:
        """Images that a device cannot do without."""
        return self.examples_per_device or (self.shards_per_device if self.scheme == "shards" else 1)
