"""How far a simulation is, and how long it will still take: one line, from the last rounds' durations.

Times are seconds of any one clock; this module reads none.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedfer.cli.watch import Screen

WINDOW_ROUNDS = 5  # the estimate rests on the last ones: a run's pace changes


@dataclass(frozen=True)
class Seen:
    """Where a run stands at `now_sec`: `tasks_done` of `tasks_expected` in the round after `rounds_done`."""

    now_sec: float
    rounds_done: int
    tasks_done: int
    tasks_expected: int
    accuracy: float | None = None


class Progress:
    """Tells a screen of a run of `num_rounds` rounds, of which `rounds_done` were done when it began."""

    def __init__(self, screen: "Screen", num_rounds: int, start_sec: float, rounds_done: int = 0) -> None:
        self._screen, self._num_rounds = screen, num_rounds
        self._rounds_done, self._ends_sec = rounds_done, [start_sec]

    def left_sec(self, seen: Seen) -> float | None:
        """How long the rest will take; None while nothing is known."""
        self._note(seen)
        return seconds_left(self._ends_sec, seen, self._num_rounds)

    def update(self, seen: Seen) -> str:
        """Shows the line, and returns it."""
        text = describe(seen, self._num_rounds, self.left_sec(seen))
        self._screen.now(text)
        return text

    def _note(self, seen: Seen) -> None:
        """Rounds that ended since the last call share the time in between."""
        new_rounds = seen.rounds_done - self._rounds_done
        last_sec = self._ends_sec[-1]
        for i in range(1, new_rounds + 1):
            self._ends_sec.append(last_sec + (seen.now_sec - last_sec) * i / new_rounds)
        self._ends_sec = self._ends_sec[-WINDOW_ROUNDS - 1 :]
        self._rounds_done = max(self._rounds_done, seen.rounds_done)


def seconds_left(ends_sec: Sequence[float], seen: Seen, num_rounds: int) -> float | None:
    """How long the rest will take; None while nothing is known. `ends_sec`: the start, then each round's end.

    With d the mean duration of those rounds, t the time in the round under way and s the share of its tasks
    that are done, that round still takes (1 - s) ((1 - s) d + t): its own pace t / s counts for s, d for the
    rest. Where no task is done, d - t. Each round after it takes d. Before the first round has ended, t / s
    stands for d.
    """
    rounds_left = num_rounds - seen.rounds_done
    if rounds_left <= 0:
        return 0.0
    spent_sec = max(0.0, seen.now_sec - ends_sec[-1])
    share = min(1.0, seen.tasks_done / seen.tasks_expected) if seen.tasks_expected > 0 else 0.0
    if len(ends_sec) > 1:
        round_sec = (ends_sec[-1] - ends_sec[0]) / (len(ends_sec) - 1)
    elif share > 0:
        round_sec = spent_sec / share
    else:
        return None
    this_round_sec = (1 - share) * ((1 - share) * round_sec + spent_sec) if share else round_sec - spent_sec
    return max(0.0, this_round_sec) + (rounds_left - 1) * round_sec


def describe(seen: Seen, num_rounds: int, left_sec: float | None) -> str:
    """`round 7/20, 31/100 devices, accuracy 0.912, 3 min 20 s left`; what is not known is left out."""
    parts = [f"round {min(seen.rounds_done + 1, num_rounds)}/{num_rounds}"]
    parts.append(f"{seen.tasks_done}/{seen.tasks_expected} devices")
    if seen.accuracy is not None:
        parts.append(f"accuracy {seen.accuracy:.3f}")
    if left_sec is not None:
        parts.append(f"{duration(left_sec)} left")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """The two largest units: `12 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`; rounded up to whole seconds."""
    if not math.isfinite(seconds):
        return "-"
    left = math.ceil(max(0.0, seconds))
    parts: list[tuple[int, str]] = []
    for unit, size_sec in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size_sec)
        if count or parts:
            parts.append((count, unit))
    return " ".join(f"{count} {unit}" for count, unit in parts[:2] if count) or "0 s"
