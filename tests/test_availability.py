"""When a device is there, by hand and against a count second by second."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfer.android_stub.simulation.availability import (
    ALWAYS,
    DAY_SEC,
    Availability,
    most_at_once,
    repeating,
)
from fedfer.model.errors import UsageError

HOUR = 3600.0
NIGHT = repeating([(22 * HOUR, 30 * HOUR)], DAY_SEC)  # 22:00 to 06:00


def test_a_night_by_hand() -> None:
    assert NIGHT.windows == ((0.0, 6 * HOUR), (22 * HOUR, 24 * HOUR))
    assert NIGHT.available_sec == 8 * HOUR
    assert NIGHT.next_at(5 * HOUR) == 5 * HOUR
    assert NIGHT.next_at(6 * HOUR) == 22 * HOUR  # the end of a window is outside
    assert NIGHT.next_at(34 * HOUR) == 46 * HOUR
    assert NIGHT.until(23 * HOUR) == 30 * HOUR  # over midnight
    assert NIGHT.until(12 * HOUR) == 12 * HOUR


@pytest.mark.parametrize(
    ("start_hour", "work_hours", "done_hour"),
    [
        (1, 2, 3),
        (1, 5, 6),  # to the very end of the window
        (1, 6, 23),  # and an hour of the next one
        (12, 1, 23),
        (12, 8, 30),  # the whole night
        (12, 9, 47),
        (12, 80, 10 * 24 + 6),  # ten nights
        (23, 0, 23),
        (12, 0, 12),
    ],
)
def test_work_rests_by_day(start_hour: float, work_hours: float, done_hour: float) -> None:
    assert NIGHT.finish(start_hour * HOUR, work_hours * HOUR) == pytest.approx(done_hour * HOUR)


def test_always() -> None:
    assert ALWAYS.is_always
    assert (ALWAYS.next_at(1e7), ALWAYS.until(1e7), ALWAYS.finish(1e7, 5.0)) == (1e7, math.inf, 1e7 + 5)
    assert repeating([(5.0, 15.0)], 10.0).is_always  # a window as long as the period, wherever it begins
    assert repeating([(3.0, 900.0)], 10.0).is_always


def test_how_many_are_there_at_once() -> None:
    morning, noon = repeating([(8 * HOUR, 12 * HOUR)], DAY_SEC), repeating([(12 * HOUR, 13 * HOUR)], DAY_SEC)
    late = repeating([(11 * HOUR, 23 * HOUR)], DAY_SEC)
    assert most_at_once([]) == 0
    assert most_at_once([ALWAYS, ALWAYS]) == 2
    assert most_at_once([morning, noon]) == 1  # the one leaves as the other comes
    assert most_at_once([morning, noon, ALWAYS]) == 2
    assert most_at_once([morning, noon, late, NIGHT, NIGHT]) == 3


def test_windows_that_touch_or_overlap_become_one() -> None:
    assert repeating([(4, 6), (1, 2), (5, 8), (2, 3)], 10.0).windows == ((1.0, 3.0), (4.0, 8.0))
    assert repeating([(-1, 1)], 10.0).windows == ((0.0, 1.0), (9.0, 10.0))


WINDOWS = st.lists(
    st.tuples(st.integers(0, 40), st.integers(1, 20)).map(lambda drawn: (drawn[0], drawn[0] + drawn[1])),
    min_size=1,
    max_size=4,
)


def is_there(windows: list[tuple[int, int]], period: int, second: int) -> bool:
    return any((second - start) % period < end - start for start, end in windows)


@settings(max_examples=200, deadline=None)
@given(windows=WINDOWS, period=st.integers(3, 40), start=st.integers(0, 200), work=st.integers(1, 60))
def test_against_a_count_by_seconds(
    windows: list[tuple[int, int]], period: int, start: int, work: int
) -> None:
    """Whole seconds, so that a device is there for all of a second or for none of it."""
    there = repeating([(float(a), float(b)) for a, b in windows], float(period))
    moment = start
    while not is_there(windows, period, moment):
        moment += 1
    assert there.next_at(start) == moment
    if moment > start:
        assert there.until(start) == start
    elif there.is_always:
        assert all(is_there(windows, period, second) for second in range(period))
    else:
        end = start
        while is_there(windows, period, end):
            end += 1
        assert there.until(start) == end
    left, now = work, start
    while left:
        left -= is_there(windows, period, now)
        now += 1
    assert there.finish(start, work) == now
    assert there.available_sec == sum(is_there(windows, period, second) for second in range(period))


@settings(max_examples=100, deadline=None)
@given(
    windows=st.lists(st.tuples(st.floats(0, 1e5), st.floats(0.1, 1e4)), min_size=1, max_size=5),
    period=st.floats(1, 1e5),
    start=st.floats(0, 1e7),
    work=st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)),
)
def test_work_adds_up(
    windows: list[tuple[float, float]], period: float, start: float, work: tuple[float, float]
) -> None:
    """Any moments: two pieces of work end when both together would; never before they could; and it ends."""
    there = repeating([(a, a + length) for a, length in windows], period)
    first, both = there.finish(start, work[0]), there.finish(start, sum(work))
    assert start + work[0] - 1e-4 <= first <= both + 1e-4
    assert there.next_at(there.next_at(start)) == there.next_at(start)
    within = first % period
    edges = [edge for window in there.windows for edge in window]
    if (
        min(abs(within - edge) for edge in (*edges, 0, period)) > 1e-3
    ):  # at an edge a rest may come in between
        assert there.finish(first, work[1]) == pytest.approx(both, abs=1e-3) or work[1] < 1e-3


@settings(max_examples=300, deadline=None)
@given(
    windows=st.lists(st.tuples(st.floats(0, 1e5), st.floats(0.01, 1e4)), min_size=1, max_size=4),
    period=st.floats(1, 1e5),
    number=st.integers(0, 2000),
    data=st.data(),
)
def test_from_edge_to_edge_there_is_always_a_step(
    windows: list[tuple[float, float]], period: float, number: int, data: st.DataObject
) -> None:
    """Moments that were computed as a window's start or end, or a period's: where rounding bites."""
    there = repeating([(a, a + length) for a, length in windows], period)
    edges = [0.0, period, *(edge for window in there.windows for edge in window)]
    at = number * period + data.draw(st.sampled_from(edges))
    begin = there.next_at(at)
    assert begin >= at
    assert there.next_at(begin) == begin
    end = there.until(begin)
    assert end > begin
    if not there.is_always:
        assert there.until(end) == end
        assert there.next_at(end) > end
        assert there.finish(begin, end - begin) == pytest.approx(end, abs=1e-5)


@pytest.mark.parametrize(
    ("period_sec", "windows", "words"),
    [
        (0.0, ((0.0, 1.0),), "expected a period"),
        (math.inf, ((0.0, 1.0),), "expected a period"),
        (10.0, (), "expected a window"),
        (10.0, ((0.0, 11.0),), r"within 0\.\.10 s; received 0\.\.11"),
        (10.0, ((5.0, 5.0),), "expected windows in order"),
        (10.0, ((-1.0, 5.0),), "expected windows in order"),
        (10.0, ((4.0, 5.0), (1.0, 2.0)), r"received 1\.\.2 after one that ends at 5"),
        (10.0, ((1.0, 2.0), (2.0, 3.0)), "apart"),
    ],
)
def test_refuses_what_are_no_windows(
    period_sec: float, windows: tuple[tuple[float, float], ...], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        Availability(period_sec, windows)
