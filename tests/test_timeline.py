"""Virtual time: events come in one order, whatever order they were added in."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfer.android_stub.simulation.timeline import Event, Timeline
from fedfer.model.errors import FedferError

EVENTS = st.lists(
    st.tuples(st.floats(0, 100), st.sampled_from(["deadline", "upload", "ask"]), st.integers(-1, 5)),
    max_size=20,
)


def drained(timeline: Timeline) -> list[Event]:
    return [timeline.next() for _ in timeline.events()]


@given(EVENTS, st.randoms(use_true_random=False))
def test_the_order_is_that_of_time_kind_and_device(events: list[tuple[float, str, int]], rng: object) -> None:
    first, second = Timeline(), Timeline()
    for at_sec, kind, device in events:
        first.add(at_sec, kind, device)  # type: ignore[arg-type]
    rng.shuffle(events)  # type: ignore[attr-defined]
    for at_sec, kind, device in events:
        second.add(at_sec, kind, device)  # type: ignore[arg-type]
    came = drained(first)
    assert came == drained(second)
    assert came == sorted(came, key=lambda event: (event.at_sec, event.rank, event.device))


def test_at_one_moment_the_deadline_comes_first_and_who_asks_last() -> None:
    timeline = Timeline()
    for kind in ("ask", "upload", "deadline"):
        timeline.add(1.0, kind, 0)
    assert [event.kind for event in drained(timeline)] == ["deadline", "upload", "ask"]


def test_time_does_not_go_back() -> None:
    timeline = Timeline()
    timeline.add(5.0, "ask", 0)
    timeline.next()
    timeline.add(3.0, "ask", 1)
    assert timeline.next().at_sec == 5.0


def test_what_never_happens_is_left_out() -> None:
    timeline = Timeline()
    timeline.add(math.inf, "ask", 0)
    with pytest.raises(FedferError, match="no device of the fleet will ever be available again"):
        timeline.next()


def test_a_restored_timeline_goes_on() -> None:
    timeline, again = Timeline(), Timeline()
    for at_sec in (3.0, 1.0, 2.0):
        timeline.add(at_sec, "ask", int(at_sec))
    timeline.next()
    again.restore(timeline.now_sec, [Event.of(e.at_sec, e.kind, e.device) for e in timeline.events()])
    assert again.now_sec == 1.0
    assert drained(again) == drained(timeline)
