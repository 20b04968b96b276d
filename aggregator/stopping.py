"""Early stopping: when a run's holdout measure has reached its plateau, and which version was the best.

A pure function of the measures of all versions so far; nothing to keep from round to round.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fedfer.model.errors import UsageError

MEASURES = ("loss", "accuracy")


@dataclass(frozen=True)
class StoppingSettings:
    """The run stops after `patience` committed versions in a row whose `measure` ("loss", or "accuracy", a
    share from 0 to 1) is not better than the best before them by more than `min_improvement`."""

    measure: str = "loss"
    patience: int = 5
    min_improvement: float = 0.0

    def __post_init__(self) -> None:
        """Raises UsageError."""
        if self.measure not in MEASURES:
            raise UsageError(f"stopping: measure is {self.measure!r}; expected loss or accuracy")
        if not 1 <= self.patience <= 1_000_000:
            raise UsageError(f"stopping: patience is {self.patience}; expected 1 to 1000000")
        if not 0 <= self.min_improvement <= 1e6:
            raise UsageError(f"stopping: min_improvement is {self.min_improvement}; expected 0 to 1e6")


@dataclass(frozen=True)
class MeasuredVersion:
    """A committed version on the holdout set. `round` 0 is the initial one."""

    round: int
    weights: str
    loss: float
    accuracy: float


@dataclass(frozen=True)
class Verdict:
    """`best` is the version with the best measure (the first of equals; None before any was measured),
    `waited` how many versions in a row brought no improvement, `stop_reason` is for people, None to go on."""

    best: MeasuredVersion | None
    waited: int
    stop_reason: str | None


def judge(versions: Sequence[MeasuredVersion], settings: StoppingSettings) -> Verdict:
    """The verdict on a run's versions in the order of their rounds; those without measures are left out."""
    if not versions:
        return Verdict(None, 0, None)
    costs = [_cost(version, settings.measure) for version in versions]
    reference, waited = costs[0], 0
    for cost in costs[1:]:
        improved = cost < reference - settings.min_improvement
        reference, waited = (cost, 0) if improved else (reference, waited + 1)
    best = versions[costs.index(min(costs))]
    return Verdict(best, waited, _reason(best, waited, settings) if waited >= settings.patience else None)


def _cost(version: MeasuredVersion, measure: str) -> float:
    """Lower is better."""
    return version.loss if measure == "loss" else -version.accuracy


def _reason(best: MeasuredVersion, waited: int, settings: StoppingSettings) -> str:
    more = f" by more than {settings.min_improvement:g}" if settings.min_improvement else ""
    return (
        f"holdout {settings.measure} has not improved{more} in {waited} rounds; the best is round "
        f"{best.round}'s: loss {best.loss:.4f}, accuracy {best.accuracy:.3f}"
    )
