"""Pace steering: when a device that has to wait is to ask again. Pure arithmetic.

A device need not ask before the round is likely to be over, and a large fleet must not ask all at once:

    pause = max(least, remaining / 4, devices / asks_per_sec) * (1 + jitter),  jitter in 0..1

so that N waiting devices make at most `asks_per_sec` asks a second on average, whatever N is, and a device
asks a few times a round, more often towards its end. The jitter is drawn from the device and the round, so
that devices that were told the same do not come back together. After Bonawitz et al. 2019, "Towards Federated
Learning at Scale: System Design", section 2.3 (pace steering).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from statistics import median

from fedfer.model.errors import UsageError

MAX_PAUSE_SEC = 1800.0  # what devices accept


@dataclass(frozen=True)
class Pace:
    """`least_sec` also bounds how soon the end of a round is noticed."""

    least_sec: float = 0.5
    most_sec: float = MAX_PAUSE_SEC
    most_remaining_sec: float = 60.0  # a round that is expected to last longer is asked for as often
    asks_per_sec: float = 100.0

    def __post_init__(self) -> None:
        """Raises UsageError."""
        if not 0 < self.least_sec <= self.most_sec <= MAX_PAUSE_SEC:
            raise UsageError(
                f"pauses are {self.least_sec} to {self.most_sec} s; "
                f"expected numbers above 0, the least first, at most {MAX_PAUSE_SEC:g}"
            )
        if not 0 < self.asks_per_sec <= 1e6:
            raise UsageError(f"asks a second are {self.asks_per_sec}; expected a number above 0, at most 1e6")


def retry_after_sec(remaining_sec: float, num_devices: int, jitter: float, pace: Pace) -> float:
    """Seconds until a waiting device is to ask again; `jitter` in 0..1, `remaining_sec` of the round."""
    expected_sec = min(max(remaining_sec, 0.0), pace.most_remaining_sec) / 4
    pause_sec = max(pace.least_sec, expected_sec, num_devices / pace.asks_per_sec)
    return min(pause_sec * (1 + jitter), pace.most_sec)


def remaining_sec(durations_sec: Sequence[float], running_sec: float) -> float:
    """How long a round is likely to go on, from what the last ones took; 0 if nothing is known."""
    return max(0.0, median(durations_sec) - running_sec) if durations_sec else 0.0


def jitter_of(*names: object) -> float:
    """A number in 0..1 that belongs to these names."""
    digest = sha256("/".join(map(str, names)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
