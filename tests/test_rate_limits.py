"""Token buckets by hand and by their defining bound, whatever the calls."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfer.aggregator.rate_limits import (
    Bucket,
    Rate,
    RateLimiter,
    address_key,
    is_loopback,
    retry_after,
    take,
)

TWO_A_SECOND = Rate(per_sec=2, burst=3)
pauses = st.lists(st.floats(0, 5), max_size=60)


class Clock:
    def __init__(self) -> None:
        self.now_sec = 100.0

    def __call__(self) -> float:
        return self.now_sec


def test_by_hand() -> None:
    """Three at once, the fourth after half a second, and two a second from then on."""
    clock = Clock()
    limiter = RateLimiter(TWO_A_SECOND, clock)
    assert [limiter.wait_sec("a") for _ in range(4)] == [0, 0, 0, 0.5]
    clock.now_sec += 0.25
    assert limiter.wait_sec("a") == 0.25
    clock.now_sec += 0.25
    assert [limiter.wait_sec("a"), limiter.wait_sec("a")] == [0, 0.5]
    assert limiter.wait_sec("b") == 0
    clock.now_sec += 1000
    assert [limiter.wait_sec("a") for _ in range(4)] == [0, 0, 0, 0.5]


@given(pauses, st.floats(0.1, 50), st.integers(1, 20))
def test_no_window_lets_more_through_than_burst_and_rate(
    pauses: list[float], per_sec: float, burst: int
) -> None:
    clock = Clock()
    limiter = RateLimiter(Rate(per_sec, burst), clock)
    granted = []
    for pause in pauses:
        clock.now_sec += pause
        if limiter.wait_sec("a") == 0:
            granted.append(clock.now_sec)
    for first in range(len(granted)):
        for last in range(first, len(granted)):
            window_sec = granted[last] - granted[first]
            assert last - first + 1 <= burst + per_sec * window_sec + 1e-6


@given(pauses, st.floats(0.1, 50), st.integers(1, 20))
def test_who_waits_as_long_as_told_is_let_through(pauses: list[float], per_sec: float, burst: int) -> None:
    clock = Clock()
    limiter = RateLimiter(Rate(per_sec, burst), clock)
    for pause in pauses:
        clock.now_sec += pause
        wait_sec = limiter.wait_sec("a")
        assert 0 <= wait_sec <= 1 / per_sec
        if wait_sec:
            clock.now_sec += wait_sec + 1e-9
            assert limiter.wait_sec("a") == 0


@given(st.lists(st.floats(-10, 10), max_size=30))
def test_a_clock_that_goes_back_gains_nothing(steps: list[float]) -> None:
    bucket, now_sec, highest_sec, granted = Bucket(3, 0), 0.0, 0.0, 0
    for step in steps:
        now_sec += step
        highest_sec = max(highest_sec, now_sec)
        bucket, wait_sec = take(bucket, TWO_A_SECOND, now_sec)
        granted += wait_sec == 0
    assert granted <= 3 + 2 * highest_sec + 1e-6


def test_the_table_is_bounded_and_forgets_who_came_longest_ago() -> None:
    limiter = RateLimiter(Rate(per_sec=0.001, burst=1), Clock(), max_buckets=3)
    for key in "abcabd":  # c is the oldest when d comes
        limiter.wait_sec(key)
    assert len(limiter) == 3
    assert {key: limiter.wait_sec(key) == 0 for key in "abd"} == dict.fromkeys("abd", False)
    assert limiter.wait_sec("c") == 0


def test_no_limit() -> None:
    limiter = RateLimiter(Rate(per_sec=0, burst=0), Clock())
    assert [limiter.wait_sec("a") for _ in range(1000)] == [0] * 1000
    assert len(limiter) == 0


@pytest.mark.parametrize(("wait_sec", "seconds"), [(0.001, "1"), (1, "1"), (1.5, "2"), (60, "60")])
def test_retry_after_is_whole_seconds(wait_sec: float, seconds: str) -> None:
    assert retry_after(wait_sec) == seconds


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("testclient", "testclient"),
        ("x" * 1000, "x" * 64),
    ],
)
def test_addresses_that_are_counted_together(host: str, key: str) -> None:
    assert address_key(host) == key


def test_loopback() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1")] == [True] * 3
    assert [is_loopback(host) for host in ("0.0.0.0", "192.0.2.7", "::", "localhost", "")] == [False] * 5
