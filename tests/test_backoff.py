"""Backoff: hand-checked pauses, Retry-After, and the moment to give up; time passes only in sleep."""

from datetime import UTC, datetime
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfer.android_stub.backoff import Backoff, RetryPolicy, growing_pause_sec, parse_retry_after
from fedfer.model.errors import ServerUnreachableError, UsageError

POLICY = RetryPolicy(first_pause_sec=0.5, max_pause_sec=15, give_up_sec=60)


def test_pauses_double_up_to_the_longest() -> None:
    pauses = [growing_pause_sec(POLICY, failures, 1.0) for failures in range(1, 9)]
    assert pauses == [0.5, 1, 2, 4, 8, 15, 15, 15]


def test_jitter_takes_off_at_most_half() -> None:
    assert [growing_pause_sec(POLICY, 3, jitter) for jitter in (0.0, 0.5, 1.0)] == [1.0, 1.5, 2.0]


def test_a_million_failures_do_not_overflow() -> None:
    assert growing_pause_sec(POLICY, 1_000_000, 1.0) == 15


NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0),
        ("7", 7),
        (" 7 ", 7),
        ("Thu, 01 Jan 2026 12:00:30 GMT", 30),
        ("Thu, 01 Jan 2026 11:00:00 GMT", 0),
        ("-7", 0),
        ("soon", 0),
        ("", 0),
        ("9" * 400, 999_999_999),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float) -> None:
    assert parse_retry_after(header, NOW) == seconds


class Clock:
    """Time that passes only in sleep."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def pauses_until_giving_up(policy: RetryPolicy, seed: int, retry_after_sec: float = 0.0) -> list[float]:
    clock = Clock()
    pauses: list[float] = []
    backoff = Backoff(policy, Random(seed), clock)
    for _ in range(10_000):
        try:
            pauses.append(backoff.next_pause_sec("GET /x", "refused", retry_after_sec))
        except ServerUnreachableError:
            return pauses
        clock.now += pauses[-1]
    raise AssertionError("never gives up")


@given(seed=st.integers(0, 1000), give_up_sec=st.floats(0, 500))
def test_gives_up_exactly_at_the_end_of_patience(seed: int, give_up_sec: float) -> None:
    policy = RetryPolicy(give_up_sec=give_up_sec)
    pauses = pauses_until_giving_up(policy, seed)
    assert sum(pauses) == pytest.approx(give_up_sec, abs=0.011)
    assert all(pause <= policy.max_pause_sec for pause in pauses)
    assert len(pauses) <= 12 + give_up_sec / (policy.max_pause_sec / 2)


@given(seed=st.integers(0, 1000), retry_after_sec=st.floats(0.1, 60))
def test_never_comes_back_before_retry_after(seed: int, retry_after_sec: float) -> None:
    assert all(pause >= retry_after_sec for pause in pauses_until_giving_up(POLICY, seed, retry_after_sec))


def test_gives_up_at_once_when_asked_to_wait_longer_than_its_patience() -> None:
    with pytest.raises(ServerUnreachableError, match=r"1 attempts.*asked to wait 3600 s.*within 60 s"):
        Backoff(POLICY, Random(0), Clock()).next_pause_sec("GET /x", "HTTP 503", 3600)


def test_the_error_says_what_where_how_long_and_how_often() -> None:
    clock = Clock()
    backoff = Backoff(POLICY, Random(0), clock)
    backoff.next_pause_sec("POST /v1/work at http://h:1", "refused")
    clock.now += 61
    with pytest.raises(ServerUnreachableError) as caught:
        backoff.next_pause_sec("POST /v1/work at http://h:1", "refused")
    assert "POST /v1/work at http://h:1 after 61 s and 2 attempts (last: refused)" in str(caught.value)
    assert caught.value.code == "server_unreachable"


def test_progress_renews_patience() -> None:
    clock = Clock()
    backoff = Backoff(POLICY, Random(0), clock)
    for _ in range(100):  # a download that brings something at every attempt, over 50 minutes
        clock.now += 30
        backoff.made_progress()
        assert backoff.next_pause_sec("GET /x", "cut off") <= 0.5


@pytest.mark.parametrize("give_up_sec", [-1.0, float("nan"), float("inf")])
def test_patience_is_a_finite_time(give_up_sec: float) -> None:
    with pytest.raises(UsageError, match="at least 0"):
        RetryPolicy(give_up_sec=give_up_sec)
