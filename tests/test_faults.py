"""Faults of a simulated fleet: which strike which task, moments, settings that make none."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfer.android_stub.simulation.faults import (
    KINDS,
    Fault,
    FaultSettings,
    back_at_sec,
    clock_offset_sec,
    fault_settings,
    faults_of,
)
from fedfer.model.errors import UsageError

seeds, devices, rounds = st.integers(0, 2**40), st.integers(0, 10**5), st.integers(1, 10**5)
shares = st.floats(0, 1)


@st.composite
def any_settings(draw: st.DrawFn) -> FaultSettings:
    return fault_settings({kind: draw(shares) for kind in (*KINDS, "delay_sec")})


def test_nothing_breaks_unless_asked_for() -> None:
    assert all(faults_of(FaultSettings(), 0, device, 1) == () for device in range(50))
    assert FaultSettings().is_calm
    assert fault_settings({}) == FaultSettings()
    assert not FaultSettings(kill=0.1).is_calm
    assert not FaultSettings(network_down=((1, 2),)).is_calm


@given(seed=seeds, device=devices, number=rounds)
def test_certain_faults_strike_every_task_in_their_order(seed: int, device: int, number: int) -> None:
    struck = faults_of(fault_settings(dict.fromkeys(KINDS, 1.0)), seed, device, number)
    assert [fault.kind for fault in struck] == [
        "kill",
        "delay",
        "stale_upload",
        "wrong_model",
        "nan",
        "cut_upload",
        "repeat_upload",
    ]
    assert {fault.kind for fault in struck} == set(KINDS)


@given(settings=any_settings(), seed=seeds, device=devices, number=rounds)
def test_a_task_has_its_faults(settings: FaultSettings, seed: int, device: int, number: int) -> None:
    struck = faults_of(settings, seed, device, number)
    assert struck == faults_of(settings, seed, device, number)
    for fault in struck:
        assert getattr(settings, fault.kind) > 0
        assert 0 <= fault.share < 1
        assert 0 <= fault.delay_sec <= settings.delay_sec
        assert fault.share == 0 or fault.kind in ("kill", "cut_upload")
        assert fault.delay_sec == 0 or fault.kind == "delay"


@given(one=any_settings(), other=any_settings(), kind=st.sampled_from(KINDS), seed=seeds)
def test_faults_do_not_depend_on_one_another(
    one: FaultSettings, other: FaultSettings, kind: Any, seed: int
) -> None:
    """Settings that agree about one kind agree about whom it strikes."""

    def struck(settings: FaultSettings) -> list[Fault]:
        alike = {**vars(settings), kind: 0.5, "delay_sec": 4.0}
        found = [fault for device in range(8) for fault in faults_of(FaultSettings(**alike), seed, device, 3)]
        return [fault for fault in found if fault.kind == kind]

    assert struck(one) == struck(other)


@given(low=shares, high=shares, seed=seeds, device=devices)
def test_more_probable_faults_strike_all_that_they_struck_before(
    low: float, high: float, seed: int, device: int
) -> None:
    low, high = min(low, high), max(low, high)
    few, many = (faults_of(FaultSettings(kill=chance), seed, device, 1) for chance in (low, high))
    assert set(few) <= set(many)


def test_probabilities_are_met() -> None:
    """1,000 tasks at 0.2: 200, and 13 is one standard deviation."""
    settings = FaultSettings(cut_upload=0.2, delay=0.2, delay_sec=10)
    struck = [fault for device in range(1000) for fault in faults_of(settings, 7, device, 2)]
    cuts, delays = ([f for f in struck if f.kind == kind] for kind in ("cut_upload", "delay"))
    assert abs(len(cuts) - 200) < 50
    assert abs(len(delays) - 200) < 50
    assert abs(sum(f.share for f in cuts) / len(cuts) - 0.5) < 0.1
    assert abs(sum(f.delay_sec for f in delays) / len(delays) - 5) < 1


@given(seed=seeds, device=devices, off_sec=st.floats(0, 1e6))
def test_clocks_are_off_by_at_most_what_is_said(seed: int, device: int, off_sec: float) -> None:
    settings = FaultSettings(clock_offset_sec=off_sec)
    assert abs(clock_offset_sec(settings, seed, device)) <= off_sec
    assert clock_offset_sec(settings, seed, device) == clock_offset_sec(settings, seed, device)


def test_clocks_are_off_either_way() -> None:
    offsets = [clock_offset_sec(FaultSettings(clock_offset_sec=60), 0, device) for device in range(40)]
    assert min(offsets) < -20 < 20 < max(offsets)
    assert len(set(offsets)) == 40


def test_the_network_is_down_in_its_gaps() -> None:
    settings = fault_settings({"network_down": [[10, 20], [15.0, 30.0]], "aggregator_kill_at_sec": [5, 2.5]})
    moments = (9.9, 10, 19, 29.9, 30, 100)
    assert [back_at_sec(settings, at_sec) for at_sec in moments] == [9.9, 30, 30, 30, 30, 100]
    assert settings.aggregator_kill_at_sec == (5, 2.5)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"kills": 0.1}, "faults has no setting 'kills'; its settings: kill, cut_upload"),
        ({"kill": 1.5}, r"faults: kill is 1.5; expected a number in 0..1"),
        ({"nan": float("nan")}, "nan is nan; expected a number"),
        ({"delay": True}, "delay is True; expected a number"),
        ({"delay_sec": -1}, "delay_sec is -1.0; expected a number in 0..1e"),
        ({"clock_offset_sec": "much"}, "clock_offset_sec is 'much'"),
        ({"aggregator_kill_at_sec": 5}, "aggregator_kill_at_sec is 5; expected a list"),
        ({"aggregator_kill_at_sec": ["soon"]}, "aggregator_kill_at_sec is 'soon'; expected a number"),
        ({"network_down": [[1, 2, 3]]}, r"expected \[\[from_sec, to_sec\], \.\.\.\]"),
        ({"network_down": [1, 2]}, "network_down is 1; expected a list"),
        ({"network_down": [[20, 10]]}, "ends at 10 s; expected after its start at 20 s"),
    ],
)
def test_settings_that_make_no_faults(table: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        fault_settings(table)
