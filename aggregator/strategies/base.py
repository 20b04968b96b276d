"""What a strategy is: from a parent version and a set of updates to the next version.

A strategy is frozen data (its settings) and one pure function. The result does not depend on the order of
the updates, and memory not on their number. What a strategy remembers from round to round (a server
optimizer's moments) comes in as a file and goes out as bytes, so that whoever keeps versions can keep it
with them, name it by its content, and go back to it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Protocol, Self

from fedfer.aggregator.update_reader import WeightedFile
from fedfer.export.checkpoint import Weights
from fedfer.export.contract import Contract
from fedfer.model.errors import UsageError


@dataclass(frozen=True)
class Aggregate:
    """The next global weights, and what the strategy wants to be given in the next round (None: nothing)."""

    weights: Weights
    state: bytes | None = None


class Strategy(Protocol):
    """One way of aggregating. `name` is what settings call it; `min_updates` is the fewest updates that it
    can aggregate with what it promises: a round must not be closed with fewer."""

    name: ClassVar[str]

    @property
    def min_updates(self) -> int: ...

    def client_settings(self) -> Mapping[str, float]:
        """What devices have to be told for this strategy, such as {"proximal_mu": 0.01}."""

    def after_gates(self, num_left: int) -> "Strategy":
        """The strategy for what is left of a round with enough updates, after gates turned others away."""

    def check_state(self, state: Path, contract: Contract) -> None:
        """Raises CheckpointError unless `aggregate` can go on from this state."""

    def aggregate(
        self, parent: Path, updates: Sequence[WeightedFile], state: Path | None, contract: Contract
    ) -> Aggregate:
        """The next version from the parent's checkpoint and the updates; `state` is the file of the bytes
        that the parent's own aggregation gave, None in the first round.

        Raises UsageError for fewer than `min_updates`, CheckpointError for a file that is missing or damaged.
        """


class Plain:
    """What strategies have that take any number of updates and ask nothing of devices."""

    @property
    def min_updates(self) -> int:
        return 1

    def client_settings(self) -> Mapping[str, float]:
        return {}

    def after_gates(self, num_left: int) -> Self:
        return self

    def check_state(self, state: Path, contract: Contract) -> None:
        """Whatever another strategy remembers is no hindrance: it is not looked at."""


def settings_of(strategy: Strategy) -> dict[str, object]:
    """All settings, defaults too, as JSON-able data that `make_strategy` takes."""
    return {"name": strategy.name, **asdict(strategy)}  # type: ignore[call-overload]


def require(condition: bool, name: str, value: object, expected: str) -> None:
    """Raises UsageError unless a setting is what it has to be."""
    if not condition:
        raise UsageError(f"{name} is {value!r}; expected {expected}")


def require_updates(strategy: Strategy, updates: Sequence[WeightedFile]) -> None:
    """Raises UsageError for too few updates."""
    if len(updates) < strategy.min_updates:
        raise UsageError(
            f"{len(updates)} updates; {strategy.name} with these settings needs {strategy.min_updates}",
            code="too_few_updates",
        )
