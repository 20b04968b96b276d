"""Gates: what is turned away though it is well-formed. Pure decisions; a rejection has a code and a reason.

An update is turned away when its step is much longer than the round's median (a scaled attack, a device
gone astray), or when the model with that update alone is worse on the holdout set than its parent by more
than a margin. A candidate that is worse than its parent by more than a margin is not committed. Every gate
is off unless its limit is set.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedfer.model.errors import UsageError

if TYPE_CHECKING:  # settings are read where numpy is not loaded
    from fedfer.aggregator.norms import Norms
    from fedfer.model.measures import Measures

MIN_UPDATES_FOR_MEDIAN = 3  # of two, nobody can say which one is astray


@dataclass(frozen=True)
class GateSettings:
    """`max_norm_ratio`: an update's norm against the round's median. The others are accuracies, as shares
    from 0 to 1: how far an update alone, or the candidate, may fall below the parent version."""

    max_norm_ratio: float | None = None
    max_update_drop: float | None = None
    max_candidate_drop: float | None = None

    def __post_init__(self) -> None:
        """Raises UsageError."""
        if self.max_norm_ratio is not None and not 1 <= self.max_norm_ratio <= 1e9:
            raise UsageError(f"gates: max_norm_ratio is {self.max_norm_ratio}; expected 1 to 1e9")
        for name in ("max_update_drop", "max_candidate_drop"):
            drop = getattr(self, name)
            if drop is not None and not 0 <= drop <= 1:
                raise UsageError(f"gates: {name} is {drop}; expected a share from 0 to 1")


@dataclass(frozen=True)
class Rejection:
    """Codes: norm_too_large, holdout_drop, candidate_worse. The reason is for people."""

    code: str
    reason: str


def gate_norms(norms: Mapping[str, "Norms"], settings: GateSettings) -> dict[str, Rejection]:
    """Which of a round's updates are too long, by their names. Below MIN_UPDATES_FOR_MEDIAN none is.

    Weights and statistics are held against their own medians. If the median is 0, whatever moves is too long.
    """
    from fedfer.aggregator.norms import median_norms

    ratio = settings.max_norm_ratio
    if ratio is None or len(norms) < MIN_UPDATES_FOR_MEDIAN:
        return {}
    median = median_norms(list(norms.values()))
    judged = {name: _too_long(each, median, ratio) for name, each in norms.items()}
    return {name: rejection for name, rejection in judged.items() if rejection is not None}


def _too_long(norms: "Norms", median: "Norms", ratio: float) -> Rejection | None:
    for what in ("weights", "statistics"):
        norm, middle = getattr(norms, what), getattr(median, what)
        if norm > ratio * middle:
            return Rejection(
                "norm_too_large",
                f"its {what} lie {norm:.4g} from the version it was trained from; the round's median is "
                f"{middle:.4g}, and at most {ratio:g} times that is taken",
            )
    return None


def gate_update(parent: "Measures", alone: "Measures", settings: GateSettings) -> Rejection | None:
    """`alone` are the holdout measures of the update's own weights, `parent` of the version before."""
    if not _fell(parent, alone, settings.max_update_drop):
        return None
    return Rejection("holdout_drop", _drop_text("this update alone", parent, alone, settings.max_update_drop))


def gate_candidate(parent: "Measures", candidate: "Measures", settings: GateSettings) -> Rejection | None:
    """Whether the round's candidate must not become the next version."""
    if not _fell(parent, candidate, settings.max_candidate_drop):
        return None
    text = _drop_text("the candidate", parent, candidate, settings.max_candidate_drop)
    return Rejection("candidate_worse", text)


def _fell(before: "Measures", after: "Measures", max_drop: float | None) -> bool:
    """By more than the margin, in whole images: rounding of shares never decides."""
    if max_drop is None:
        return False
    fallen = round(before.accuracy * before.num_examples) - round(after.accuracy * after.num_examples)
    return fallen > max_drop * before.num_examples + 1e-9


def _drop_text(what: str, before: "Measures", after: "Measures", max_drop: float | None) -> str:
    return (
        f"holdout accuracy of {what} is {after.accuracy:.3f}, of the version before {before.accuracy:.3f}; "
        f"a drop of at most {max_drop:g} is taken"
    )
