"""When waiting devices are told to come back: bounded load, sooner towards the round's end."""

import heapq
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_helpers import party, rounds_of

from fedfer.aggregator.blobs import Blobs
from fedfer.aggregator.config import RunSettings, ServerConfig
from fedfer.aggregator.enrolment import Enrolment
from fedfer.aggregator.fleet import COUNT_SEC, Fleet
from fedfer.aggregator.pace import Pace, jitter_of, remaining_sec, retry_after_sec
from fedfer.aggregator.store import Store

PACE = Pace()


@pytest.mark.parametrize(
    ("remaining", "num_devices", "jitter", "pause"),
    [
        (0.0, 3, 0.0, 0.5),
        (0.0, 3, 1.0, 1.0),
        (8.0, 3, 0.0, 2.0),
        (8.0, 3, 0.5, 3.0),
        (3600.0, 3, 0.0, 15.0),
        (0.0, 10_000, 0.0, 100.0),
        (0.0, 10_000_000, 1.0, 1800.0),
    ],
)
def test_by_hand(remaining: float, num_devices: int, jitter: float, pause: float) -> None:
    assert retry_after_sec(remaining, num_devices, jitter, PACE) == pause


@given(st.integers(1, 3000), st.floats(0, 1e6), st.integers(0, 2**32))
def test_asks_a_second_stay_bounded(num_devices: int, remaining: float, seed: int) -> None:
    """All devices come at once and then do as they are told for a minute: whatever the fleet's size, at most
    `asks_per_sec` a second on average beyond the first asks."""
    rng, span_sec = Random(seed), 60.0
    pace = Pace(asks_per_sec=20.0)
    due = [(0.0, device) for device in range(min(num_devices, 300))]
    scaled = num_devices / len(due)  # each of them stands for several
    asks = 0
    while due and due[0][0] < span_sec:
        now, device = heapq.heappop(due)
        asks += 1
        pause_sec = retry_after_sec(remaining, num_devices, rng.random(), pace)
        heapq.heappush(due, (now + pause_sec, device))
    assert (asks - len(due)) * scaled <= pace.asks_per_sec * span_sec + 1e-9


@given(st.floats(0, 1e9), st.integers(0, 10**9), st.floats(0, 1))
def test_a_pause_is_within_what_devices_take(remaining: float, num_devices: int, jitter: float) -> None:
    assert PACE.least_sec <= retry_after_sec(remaining, num_devices, jitter, PACE) <= PACE.most_sec


def test_who_has_just_enrolled_is_counted(tmp_path: Path) -> None:
    """A fleet that arrives is told to spread out at once, not when its devices are counted again."""
    now = [1000.0]
    with closing(Store(Blobs(tmp_path / "data"))) as store:
        fleet = Fleet(store.devices, "1" * 64, ServerConfig(tmp_path), lambda: now[0])
        enrol = Enrolment(store.devices, lambda: now[0], token_days=1, max_devices=100).enrol
        assert fleet.num_active() == 0
        for number, contract in enumerate(("1" * 64, None, "2" * 64)):
            enrol(f"device-{number}", contract, None)
        assert (fleet.num_active(), fleet.is_counted) == (2, True)
        now[0] += COUNT_SEC + 1
        assert not fleet.is_counted
        assert (fleet.num_active(), len(fleet.active()), fleet.num_active()) == (2, 2, 2)
        enrol("device-3", None, None)
        assert fleet.num_active() == 3


def test_what_is_left_of_a_round() -> None:
    assert remaining_sec([], 5.0) == 0.0
    assert remaining_sec([10.0, 30.0, 12.0], 5.0) == 7.0
    assert remaining_sec([10.0, 30.0, 12.0], 50.0) == 0.0


def test_jitter_spreads() -> None:
    drawn = sorted(jitter_of("phone", number) for number in range(1000))
    assert all(0 <= value < 1 for value in drawn)
    assert abs(drawn[500] - 0.5) < 0.1
    assert jitter_of("a", 1) == jitter_of("a", 1) != jitter_of("a", 2)


def test_devices_that_wait_are_answered_while_an_update_is_made_durable(
    tiny_tflite: Path, tmp_path: Path
) -> None:
    """The lock that a transaction holds is held here by this thread; another one asks."""
    with party(tiny_tflite, tmp_path, RunSettings(rounds=rounds_of(1))) as there:
        worker, waiting = there.phones("worker", "waiting")
        given = worker.work()
        with there.run.changed, ThreadPoolExecutor(1) as pool:
            again = pool.submit(worker.work).result(30.0)
            refused = pool.submit(waiting.work).result(30.0)
        assert (given.wait_reason, again.wait_reason) == (None, None)
        assert again.round_.number == given.round_.number
        assert refused.wait_reason is not None
        assert refused.retry_after_sec > 0
