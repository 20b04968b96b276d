"""What a round ends with, as plain data: a version, or why there is none.

committed   the candidate is the next version
rolled_back a candidate was made, but is worse than its parent: the parent is started from again
no_updates  the gates left too few updates to make a candidate of
abandoned   the round was given up by an operator, who stopped the run or rolled it back
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from fedfer.aggregator.gates import Rejection
from fedfer.aggregator.rounds import UpdateKey

Outcome = Literal["committed", "rolled_back", "no_updates", "abandoned"]
StopReason = Literal["rounds", "plateau", "operator"]


@dataclass(frozen=True)
class Result:
    """`weights` are those that the next round starts from, `candidate` what was made of the updates, `state`
    what the strategy wants back with a committed candidate. Measures are the candidate's, None without a
    holdout set. `reason` is for people."""

    outcome: Outcome
    weights: str
    closed_at: float
    candidate: str | None = None
    state: str | None = None
    holdout_loss: float | None = None
    holdout_accuracy: float | None = None
    reason: str | None = None
    rejections: Mapping[UpdateKey, Rejection] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class End:
    """Why a run is over; `text` is for people."""

    reason: StopReason
    text: str
