"""Virtual time: what happens next, in an order that depends on nothing but time, device and kind."""

import heapq
import math
from dataclasses import dataclass
from typing import Literal

from fedfer.model.errors import FedferError

Kind = Literal["deadline", "upload", "ask"]
# At one moment: a deadline that has come first, then uploads, so that who asks finds what they changed.
_RANKS: dict[Kind, int] = {"deadline": 0, "upload": 1, "ask": 2}


@dataclass(frozen=True, order=True)
class Event:
    """Something at `at_sec` of virtual time; `device` is an index, -1 for none."""

    at_sec: float
    rank: int
    device: int
    kind: Kind

    @staticmethod
    def of(at_sec: float, kind: Kind, device: int = -1) -> "Event":
        return Event(at_sec, _RANKS[kind], device, kind)


class Timeline:
    """A heap of events. Times never go back."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self.now_sec = 0.0

    def add(self, at_sec: float, kind: Kind, device: int = -1) -> None:
        """Something at infinity never happens and is left out."""
        if math.isfinite(at_sec):
            heapq.heappush(self._events, Event.of(max(at_sec, self.now_sec), kind, device))

    def next(self) -> Event:
        """Goes on to the next event. Raises FedferError when nothing is left to happen."""
        if not self._events:
            raise FedferError("no device of the fleet will ever be available again", code="stalled")
        event = heapq.heappop(self._events)
        self.now_sec = event.at_sec
        return event

    def events(self) -> list[Event]:
        """All that is to come, in order."""
        return sorted(self._events)

    def restore(self, now_sec: float, events: list[Event]) -> None:
        self.now_sec = now_sec
        self._events = list(events)
        heapq.heapify(self._events)
