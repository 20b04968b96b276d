"""When a device is there: windows of a period that repeats, such as a day. Pure; times in virtual seconds.

A device works for a run only while it is idle, charging and on an unmetered network (Bonawitz et al. 2019,
"Towards federated learning at scale", section 3, arXiv 1902.01046); windows are when all three hold.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate

from fedfer.model.errors import UsageError

DAY_SEC = 86_400.0
MAX_SEC = 1e9  # of a period
# What sums of moments may be off by: the last microsecond of a window counts as its end. Without it a moment
# that was computed as the end of a window lay before that end as often as not.
TOLERANCE_SEC = 1e-6
Window = tuple[float, float]


@dataclass(frozen=True)
class Availability:
    """Windows [start, end) within 0..`period_sec`, in order and apart from each other; at least one."""

    period_sec: float = DAY_SEC
    windows: tuple[Window, ...] = ((0.0, DAY_SEC),)

    def __post_init__(self) -> None:
        """Raises UsageError."""
        if not 0 < self.period_sec <= MAX_SEC:
            raise UsageError(f"expected a period of above 0 to {MAX_SEC:g} s; received {self.period_sec}")
        if not self.windows:
            raise UsageError("expected a window in which the device is there; received none")
        before = -1.0
        for start, end in self.windows:
            fits = start >= 0 and start + TOLERANCE_SEC < end <= self.period_sec
            if not fits or start <= before + TOLERANCE_SEC:
                raise UsageError(
                    f"expected windows in order, apart, within 0..{self.period_sec:g} s; "
                    f"received {start:g}..{end:g} after one that ends at {max(before, 0):g}"
                )
            before = end

    @property
    def is_always(self) -> bool:
        return self.windows == ((0.0, self.period_sec),)

    @property
    def available_sec(self) -> float:
        """Of each period."""
        return math.fsum(end - start for start, end in self.windows)

    def next_at(self, at_sec: float) -> float:
        """The first moment from `at_sec` (>= 0) on at which the device is there."""
        if self.is_always:
            return at_sec
        period, _, place = self._place(at_sec)
        if place == len(self.windows):
            return max(at_sec, (period + 1) * self.period_sec + self.windows[0][0])
        return max(at_sec, period * self.period_sec + self.windows[place][0])

    def until(self, at_sec: float) -> float:
        """When the device leaves, if it is there at `at_sec` (never: infinity); if it is not, `at_sec`."""
        if self.is_always:
            return math.inf
        if self.next_at(at_sec) > at_sec:
            return at_sec
        period, _, place = self._place(at_sec)
        end = period * self.period_sec + self.windows[place][1]
        goes_on = self.windows[place][1] == self.period_sec and self.windows[0][0] == 0
        return (period + 1) * self.period_sec + self.windows[0][1] if goes_on else end

    def finish(self, start_sec: float, work_sec: float) -> float:
        """When `work_sec` of work is done that is begun at `start_sec` and rests while the device is away."""
        if self.is_always or work_sec <= 0:
            return start_sec + max(0.0, work_sec)
        each_sec = self.available_sec
        # Whole periods are passed over without walking through their windows; the last one is not.
        whole = max(0, math.ceil((work_sec - TOLERANCE_SEC) / each_sec) - 1)
        left_sec = work_sec - whole * each_sec
        period, within_sec, place = self._place(start_sec)
        while True:  # at most one period, and the window in which it began
            if place == len(self.windows):
                period, place, within_sec = period + 1, 0, 0.0
            begin_sec, end_sec = max(within_sec, self.windows[place][0]), self.windows[place][1]
            if left_sec <= end_sec - begin_sec + TOLERANCE_SEC:
                done_sec = (period + whole) * self.period_sec + min(begin_sec + left_sec, end_sec)
                return max(start_sec, done_sec)
            left_sec -= end_sec - begin_sec
            place += 1

    def _place(self, at_sec: float) -> tuple[int, float, int]:
        """Number of the period, seconds within it, number of its first window that has not ended by then."""
        period = math.floor(at_sec / self.period_sec)
        within_sec = at_sec - period * self.period_sec
        if within_sec > self.period_sec - TOLERANCE_SEC:
            period, within_sec = period + 1, 0.0
        place = bisect_right(self.windows, within_sec + TOLERANCE_SEC, key=lambda window: window[1])
        return period, max(0.0, within_sec), place


ALWAYS = Availability()


def most_at_once(fleet: Iterable[Availability]) -> int:
    """How many are there at the best moment; all have one period, or are always there."""
    always, edges = 0, []
    for each in fleet:
        always += each.is_always
        if not each.is_always:
            edges += [(start, 1) for start, _ in each.windows] + [(end, -1) for _, end in each.windows]
    steps = (step for _, step in sorted(edges))  # who leaves at a moment is gone when others come
    return always + max(accumulate(steps), default=0)


def repeating(windows: Iterable[Window], period_sec: float) -> Availability:
    """Windows of any place and order, brought into one period: those over its end go on at its start, those
    that touch become one, less than a microsecond is nothing. Raises UsageError when none is left."""
    merged: list[Window] = []
    for begin, end in sorted(_pieces(windows, period_sec)):
        if merged and begin <= merged[-1][1] + TOLERANCE_SEC:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((begin, end))
    return Availability(period_sec, tuple(merged))


def _pieces(windows: Iterable[Window], period_sec: float) -> Iterator[Window]:
    """Each within 0..`period_sec`; one that nearly reaches an end of the period does reach it."""
    for start, end in windows:
        begin = start % period_sec
        stop = begin + min(end - start, period_sec)
        for piece in ((begin, min(stop, period_sec)), (0.0, stop - period_sec)):
            first = piece[0] if piece[0] > TOLERANCE_SEC else 0.0
            last = piece[1] if piece[1] < period_sec - TOLERANCE_SEC else period_sec
            if last - first > TOLERANCE_SEC and piece[1] > piece[0]:
                yield first, last
