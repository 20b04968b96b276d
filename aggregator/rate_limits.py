"""Token buckets: how often a device, or an address, may call. Pure arithmetic over a clock from outside.

A bucket holds at most `burst` tokens, gains `per_sec` of them a second, and gives one away a call; an empty
one says how long to wait. In any time of t seconds it lets at most burst + per_sec * t calls through
(Turner 1986; RFC 2698 calls it a token bucket).
"""

import ipaddress
import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

MAX_BUCKETS = 100_000  # about 20 MB; beyond that the ones that were used longest ago are forgotten
IPV6_HOST_BITS = 64  # one subscriber has that many addresses of IPv6 to himself


@dataclass(frozen=True)
class Rate:
    """Calls a second in the long run, and how many at once after a pause; `per_sec` 0 is no limit."""

    per_sec: float
    burst: float

    @property
    def is_limited(self) -> bool:
        return self.per_sec > 0


@dataclass(frozen=True)
class Bucket:
    """`tokens` there were at the moment `at_sec`."""

    tokens: float
    at_sec: float


def take(bucket: Bucket, rate: Rate, now_sec: float) -> tuple[Bucket, float]:
    """The bucket after a call, and seconds to wait: 0 lets the call through, otherwise nothing is taken.

    A clock that goes back gains nothing.
    """
    elapsed_sec = max(0.0, now_sec - bucket.at_sec)
    tokens = min(rate.burst, bucket.tokens + elapsed_sec * rate.per_sec)
    moment = max(now_sec, bucket.at_sec)
    if tokens >= 1:
        return Bucket(tokens - 1, moment), 0.0
    return Bucket(tokens, moment), (1 - tokens) / rate.per_sec


class RateLimiter:
    """A bucket for each key, all of one rate; from any thread. Keeps at most `max_buckets` of them."""

    def __init__(self, rate: Rate, clock: Callable[[], float], max_buckets: int = MAX_BUCKETS) -> None:
        self._rate, self._clock, self._max_buckets = rate, clock, max_buckets
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()
        self._lock = threading.Lock()

    def wait_sec(self, key: str) -> float:
        """Counts a call; 0 lets it through, otherwise it is to come again after so many seconds."""
        if not self._rate.is_limited:
            return 0.0
        now = self._clock()
        with self._lock:
            before = self._buckets.pop(key, Bucket(self._rate.burst, now))
            self._buckets[key], wait = take(before, self._rate, now)
            if len(self._buckets) > self._max_buckets:
                self._buckets.popitem(last=False)
        return wait

    def __len__(self) -> int:
        return len(self._buckets)


def retry_after(wait_sec: float) -> str:
    """The value of Retry-After: whole seconds, rounded up."""
    return str(max(1, math.ceil(wait_sec)))


def address_key(host: str) -> str:
    """What is counted together: an IPv4 address, a /64 of IPv6; anything else as it is."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host[:64]
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, IPV6_HOST_BITS), strict=False))


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
