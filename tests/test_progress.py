"""How far a simulation is: the line, and the time left, by numbers done by hand and by properties."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfer.cli.progress import WINDOW_ROUNDS, Progress, Seen, describe, duration, seconds_left
from fedfer.cli.watch import Screen


@pytest.mark.parametrize(
    ("ends_sec", "seen", "left_sec"),
    [
        ([0.0], Seen(5.0, 0, 0, 10), None),  # nothing is known yet
        ([0.0], Seen(5.0, 0, 5, 10), 5.0 + 9 * 10.0),  # half a round in 5 s: 10 s each
        ([0.0, 10.0], Seen(10.0, 1, 0, 10), 9 * 10.0),
        ([0.0, 10.0], Seen(14.0, 1, 0, 10), 6.0 + 8 * 10.0),  # tasks that all end together
        ([0.0, 10.0], Seen(15.0, 1, 5, 10), 5.0 + 8 * 10.0),  # as quick as the round before
        ([0.0, 10.0], Seen(30.0, 1, 5, 10), 12.5 + 8 * 10.0),  # half in 20 s: 0.5 (0.5 * 10 + 20)
        ([0.0, 10.0, 40.0], Seen(40.0, 2, 0, 10), 8 * 20.0),  # the mean of 10 and 30
        ([0.0, 10.0], Seen(90.0, 1, 0, 10), 8 * 10.0),  # long overdue: not less than nothing
        ([0.0, 10.0], Seen(20.0, 1, 10, 10), 8 * 10.0),  # closing
        ([0.0, 10.0], Seen(20.0, 10, 0, 0), 0.0),
    ],
)
def test_time_left_by_hand(ends_sec: list[float], seen: Seen, left_sec: float | None) -> None:
    assert seconds_left(ends_sec, seen, 10) == (left_sec if left_sec is None else pytest.approx(left_sec))


@given(
    round_sec=st.floats(0.01, 1e5),
    num_rounds=st.integers(2, 500),
    data=st.data(),
)
@settings(max_examples=60)
def test_at_a_steady_pace_it_is_exact(round_sec: float, num_rounds: int, data: st.DataObject) -> None:
    done = data.draw(st.integers(1, num_rounds - 1))
    tasks = data.draw(st.integers(1, 1000))
    tasks_done = data.draw(st.integers(0, tasks))
    ends_sec = [round_sec * i for i in range(done + 1)]
    now_sec = ends_sec[-1] + round_sec * tasks_done / tasks
    left_sec = seconds_left(ends_sec, Seen(now_sec, done, tasks_done, tasks), num_rounds)
    assert left_sec == pytest.approx(num_rounds * round_sec - now_sec, rel=1e-6, abs=1e-6 * round_sec)


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=8).map(sorted),
    st.floats(0, 2e6),
    *[st.integers(0, 30)] * 4,
)
@settings(max_examples=60)
def test_it_is_never_negative(
    ends_sec: list[float], now_sec: float, rounds_done: int, tasks_done: int, expected: int, num_rounds: int
) -> None:
    left_sec = seconds_left(ends_sec, Seen(now_sec, rounds_done, tasks_done, expected), num_rounds)
    assert left_sec is None or left_sec >= 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 s"),
        (0.2, "1 s"),
        (59.0, "59 s"),
        (60.0, "1 min"),
        (200.0, "3 min 20 s"),
        (3600.0, "1 h"),
        (7530.0, "2 h 5 min"),
        (3605.0, "1 h"),
        (86400 * 3 + 3600 * 4 + 59, "3 d 4 h"),
        (float("inf"), "-"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_line() -> None:
    assert describe(Seen(0.0, 6, 31, 100, 0.9124), 20, 200.0) == (
        "round 7/20, 31/100 devices, accuracy 0.912, 3 min 20 s left"
    )
    assert describe(Seen(0.0, 0, 0, 100), 20, None) == "round 1/20, 0/100 devices"
    assert describe(Seen(0.0, 20, 0, 0), 20, 0.0) == "round 20/20, 0/0 devices, 0 s left"


def test_rounds_are_timed_as_they_end() -> None:
    progress = Progress(Screen(), num_rounds=10, start_sec=100.0)
    assert progress.update(Seen(100.0, 0, 0, 4)) == "round 1/10, 0/4 devices"
    assert progress.update(Seen(110.0, 1, 0, 4)).endswith(" 1 min 30 s left")
    # Two rounds at once, 20 s each: d = 50 / 3, seven rounds are left.
    assert progress.update(Seen(150.0, 3, 0, 4)).endswith(" 1 min 57 s left")


def test_a_run_that_goes_on_counts_from_where_it_was() -> None:
    progress = Progress(Screen(), num_rounds=10, start_sec=0.0, rounds_done=8)
    assert progress.update(Seen(30.0, 9, 0, 4)) == "round 10/10, 0/4 devices, 30 s left"


def test_only_the_last_rounds_count() -> None:
    progress = Progress(Screen(), num_rounds=100, start_sec=0.0)
    progress.update(Seen(1000.0, 1, 0, 1))
    for i in range(WINDOW_ROUNDS):
        line = progress.update(Seen(1000.0 + 10 * (i + 1), 2 + i, 0, 1))
    assert line.endswith(f" {duration(10.0 * (100 - 1 - WINDOW_ROUNDS))} left")
