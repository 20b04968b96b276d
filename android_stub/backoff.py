"""When a device tries again: growing pauses with jitter, Retry-After, and the moment to give up.

Pure arithmetic over numbers; the clock, the random numbers and the sleeping come from outside.
The n-th pause (n = 0, 1, ...) is drawn from the upper half of `first_pause_sec * 2**n`, cut at
`max_pause_sec` ("equal jitter": https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/),
so that a fleet does not come back in one instant when its server does.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from random import Random

from fedfer.model.errors import ServerUnreachableError, UsageError

MIN_LEFT_SEC = 0.01  # less patience than this is none: no flurry of attempts at its very end


@dataclass(frozen=True)
class RetryPolicy:
    """How long a device is patient with one call. Raises UsageError unless 0 <= give_up_sec < infinity."""

    first_pause_sec: float = 0.5
    max_pause_sec: float = 15.0
    give_up_sec: float = 120.0

    def __post_init__(self) -> None:
        if not 0 <= self.give_up_sec < math.inf:
            raise UsageError(f"expected seconds to give up after, at least 0; received {self.give_up_sec}")


def growing_pause_sec(policy: RetryPolicy, num_failures: int, jitter: float) -> float:
    """Pause after the `num_failures`-th failure in a row (1, 2, ...); `jitter` in 0..1."""
    doublings = min(num_failures - 1, 60)  # beyond that the cut applies anyway, and floats overflow
    longest = min(policy.max_pause_sec, policy.first_pause_sec * 2.0**doublings)
    return longest * (0.5 + 0.5 * jitter)


def parse_retry_after(value: str | None, now: datetime) -> float:
    """Seconds that a Retry-After header asks for (RFC 9110: seconds, or a date); 0 if none can be read."""
    if value is None:
        return 0.0
    if value.strip().isascii() and value.strip().isdigit():
        return float(value.strip()[:9])
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds())


class Backoff:
    """The failures of one call, counted from its first attempt."""

    def __init__(self, policy: RetryPolicy, rng: Random, clock: Callable[[], float]) -> None:
        self._policy = policy
        self._rng = rng
        self._clock = clock
        self._started_at = clock()
        self._attempts = 0
        self._failures_in_a_row = 0

    def made_progress(self) -> None:
        """The last attempt brought something (part of a download): patience starts anew."""
        self._started_at = self._clock()
        self._failures_in_a_row = 0

    def next_pause_sec(self, what: str, failure: str, retry_after_sec: float = 0.0) -> float:
        """Pause before the next attempt at `what`, at least `retry_after_sec`; the last one is cut so that
        one attempt falls on the end of patience. Raises ServerUnreachableError when none is left."""
        self._attempts += 1
        self._failures_in_a_row += 1
        elapsed_sec = self._clock() - self._started_at
        left_sec = self._policy.give_up_sec - elapsed_sec
        if left_sec < MIN_LEFT_SEC or retry_after_sec > left_sec:
            asked = (
                f", and asked to wait {retry_after_sec:.0f} s"
                if retry_after_sec > left_sec >= MIN_LEFT_SEC
                else ""
            )
            raise ServerUnreachableError(
                f"gave up on {what} after {elapsed_sec:.0f} s and {self._attempts} attempts "
                f"(last: {failure}{asked}); expected an aggregator that answers within "
                f"{self._policy.give_up_sec:.0f} s: is `fedfer serve` running there?"
            )
        pause_sec = growing_pause_sec(self._policy, self._failures_in_a_row, self._rng.random())
        return max(retry_after_sec, min(pause_sec, left_sec))
