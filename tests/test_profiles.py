"""Profiles of simulated devices: settings from TOML, seeded draws, fleets of the package, costs."""

import json
import math
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfer.android_stub.simulation import costs
from fedfer.android_stub.simulation.availability import DAY_SEC, repeating
from fedfer.android_stub.simulation.fleets import fleet_profiles, packaged_fleets, profile_settings
from fedfer.android_stub.simulation.profile_settings import NUMBERS, parse_profiles
from fedfer.android_stub.simulation.profiles import Profile, draw_profiles
from fedfer.model.errors import DataError, UsageError

HOUR = 3600.0


def tables(text: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tomllib.loads(text)["profiles"]
    return found


def one(text: str) -> list[dict[str, Any]]:
    return tables(f"[[profiles]]\n{text}")


def test_fixed_numbers_are_in_their_units() -> None:
    parsed = parse_profiles(
        one("""
        name = "slow"
        examples_per_sec = 4
        down_mbit_per_sec = 8
        up_mbit_per_sec = 0.8
        latency_sec = 0.5
        memory_mb = 300
        drop_out_probability = 0.25
        clock_offset_sec = -2.5
        availability = {daily = [["22:00", "06:30"], ["12:00", "13:00"]]}
        """)
    )
    (profile,) = draw_profiles(parsed, 1, seed=9)
    windows = ((0.0, 6.5 * HOUR), (12 * HOUR, 13 * HOUR), (22 * HOUR, DAY_SEC))
    assert profile == Profile("slow", 4, 1e6, 1e5, 0.5, 3e8, 0.25, -2.5, repeating(windows, DAY_SEC))
    assert costs.download_sec(profile, 2_000_000) == 2.5
    assert costs.upload_sec(profile, 2_000_000) == 20.5
    assert costs.download_sec(profile, 0) == costs.upload_sec(profile, 0) == 0
    assert costs.train_sec(profile, num_examples=100, local_epochs=3) == 75
    assert costs.fits_memory(profile, 3e8)
    assert not costs.fits_memory(profile, 3e8 + 1)
    assert costs.next_available(profile, 7 * HOUR) == 12 * HOUR
    assert costs.available_until(profile, 22 * HOUR) == 30.5 * HOUR
    assert costs.finish_at(profile, 7 * HOUR, 2 * HOUR) == 23 * HOUR  # an hour at noon, one at night


def test_nothing_said_is_the_default_and_is_always_there() -> None:
    assert draw_profiles((), 3, seed=0) == (Profile(),) * 3
    assert draw_profiles(parse_profiles([{}]), 2, seed=0) == (Profile(),) * 2
    assert costs.finish_at(Profile(), 5.0, 7.0) == 12.0
    assert costs.available_until(Profile(), 5.0) == math.inf


FLEET = """
[[profiles]]
name = "low"
share = 3
examples_per_sec = {lognormal = [10, 0.5]}
latency_sec = {uniform = [0.1, 0.2]}
up_mbit_per_sec = {choice = [1, 2, 4]}
[[profiles]]
name = "high"
share = 1
examples_per_sec = 100
"""


def test_shares_and_distributions() -> None:
    profiles = draw_profiles(parse_profiles(tables(FLEET)), 4_000, seed=3)
    low = [profile for profile in profiles if profile.name == "low"]
    assert abs(len(low) - 3_000) < 6 * math.sqrt(4_000 * 0.25 * 0.75)
    logs = np.log([profile.examples_per_sec for profile in low])
    assert np.median(logs) == pytest.approx(math.log(10), abs=0.05)
    assert logs.std() == pytest.approx(0.5, rel=0.1)
    latencies = [profile.latency_sec for profile in low]
    assert 0.1 <= min(latencies) < 0.101 < 0.199 < max(latencies) <= 0.2
    speeds, counts = np.unique([profile.up_bytes_per_sec for profile in low], return_counts=True)
    assert speeds.tolist() == [125_000, 250_000, 500_000]
    assert counts.min() > 0.27 * len(low)
    assert {profile.examples_per_sec for profile in profiles if profile.name == "high"} == {100}


@given(seed=st.integers(0, 2**63 - 1), few=st.integers(0, 5), more=st.integers(0, 10))
def test_a_device_is_the_same_in_a_larger_fleet(seed: int, few: int, more: int) -> None:
    parsed = parse_profiles(tables(FLEET))
    assert draw_profiles(parsed, few + more, seed)[:few] == draw_profiles(parsed, few, seed)


def test_changing_one_number_leaves_the_others() -> None:
    before = draw_profiles(parse_profiles(tables(FLEET)), 50, seed=1)
    after = draw_profiles(
        parse_profiles(tables(FLEET.replace("latency_sec = {uniform", "clock_offset_sec = {uniform"))),
        50,
        seed=1,
    )
    assert [p.examples_per_sec for p in before] == [p.examples_per_sec for p in after]
    assert [p.up_bytes_per_sec for p in before] == [p.up_bytes_per_sec for p in after]
    assert before != draw_profiles(parse_profiles(tables(FLEET)), 50, seed=2)


def test_a_wild_lognormal_stays_within_limits() -> None:
    parsed = parse_profiles(one("drop_out_probability = {lognormal = [0.9, 5]}"))
    drawn = [profile.drop_out_probability for profile in draw_profiles(parsed, 300, seed=0)]
    assert max(drawn) == 1.0
    assert min(drawn) > 0


def test_jitter_shifts_a_device_s_windows_together() -> None:
    text = 'availability = {daily = [["10:00", "12:00"], ["15:00", "15:30"]], jitter_sec = 1800}'
    shifts = []
    for profile in draw_profiles(parse_profiles(one(text)), 200, seed=0):
        (a, b), (c, d) = profile.availability.windows
        assert (b - a, c - b, d - c) == pytest.approx((2 * HOUR, 3 * HOUR, 0.5 * HOUR))
        shifts.append(a - 10 * HOUR)
    assert -1800 <= min(shifts) < -1500 < 1500 < max(shifts) <= 1800


def test_states_hold_together_in_a_share_of_the_slots() -> None:
    text = "availability = {idle = 0.8, charging = 0.5, unmetered = 0.75, slot_sec = 900}"
    profiles = draw_profiles(parse_profiles(one(text)), 200, seed=0)
    share = np.mean([profile.availability.available_sec for profile in profiles]) / DAY_SEC
    assert share == pytest.approx(0.3, abs=0.02)
    assert all(
        edge % 900 == 0 for profile in profiles for window in profile.availability.windows for edge in window
    )


def test_whoever_would_never_be_there_gets_one_slot() -> None:
    profiles = draw_profiles(parse_profiles(one("availability = {charging = 0.0}")), 50, seed=0)
    assert {profile.availability.available_sec for profile in profiles} == {HOUR}
    assert len({profile.availability.windows for profile in profiles}) > 10


REFUSED = {
    "speed = 3": "profile 1 has no setting 'speed'; its settings: name, share, examples_per_sec",
    "share = 0": "share is 0.0; expected a number above 0",
    "share = true": "profile 1: share is True; expected a number",
    'name = ""': "name is ''; expected 1 to 64 characters",
    'name = "a\\u0000"': "name is 'a\\x00'",
    "examples_per_sec = 0": "profile 1: examples_per_sec is 0; expected 1e-06 to 1e+09",
    "examples_per_sec = nan": "examples_per_sec: choice is [nan]; expected numbers",
    "examples_per_sec = inf": "examples_per_sec: choice is [inf]; expected numbers",
    'examples_per_sec = "fast"': "examples_per_sec: choice is ['fast']; expected numbers",
    "examples_per_sec = true": "examples_per_sec: choice is [True]; expected numbers",
    "latency_sec = -1": "latency_sec is -1; expected 0 to 3600",
    "latency_sec = {normal = [1, 2]}": "expected a number or one of uniform, lognormal, choice",
    "latency_sec = {uniform = [0, 1], choice = [1]}": "expected a number or one of uniform",
    "latency_sec = {uniform = [2, 1]}": "expected the smaller number first",
    "latency_sec = {uniform = [1]}": "uniform is [1]; expected two numbers",
    "latency_sec = {uniform = [1, 4000]}": "latency_sec is 4000; expected 0 to 3600",
    "latency_sec = {lognormal = [0, 1]}": "expected a median above 0",
    "latency_sec = {lognormal = [1, -1]}": "a sigma 0 to 5",
    "latency_sec = {choice = []}": "choice is []; expected numbers",
    "drop_out_probability = 1.5": "drop_out_probability is 1.5; expected 0 to 1",
    'availability = "night"': "availability is 'night'; expected {daily = [...]}",
    "availability = {idle = 2.0}": "profile 1: availability: idle is 2.0; expected a probability of 0 to 1",
    "availability = {asleep = 0.5}": "profile 1: availability has no setting 'asleep'; its settings: idle",
    "availability = {slot_sec = 1}": "slot_sec is 1.0; expected 60 to 86400, a part of the day",
    "availability = {slot_sec = 3601}": "slot_sec is 3601.0",
    "availability = {daily = []}": "daily is []; expected windows",
    'availability = {daily = ["22:00"]}': "a window is '22:00'; expected one such as",
    'availability = {daily = [["22:00", "22:00"]]}': "a window is ['22:00', '22:00']",
    'availability = {daily = [["22:00", "24:30"]]}': "a window is ['22:00', '24:30']",
    'availability = {daily = [["22:00", "6:00"]]}': "a window is ['22:00', '6:00']",
    "availability = {daily = [[1, 2]]}": "a window is [1, 2]",
    'availability = {daily = [["22:00", "23:00"]], jitter_sec = -1}': "jitter_sec is -1; expected 0 to 86400",
    'availability = {daily = [["22:00", "23:00"]], idle = 0.5}': "has no setting 'idle' beside daily",
}


@pytest.mark.parametrize("text", REFUSED)
def test_settings_that_make_no_profile_are_named(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_profiles(one(text))
    assert REFUSED[text] in str(caught.value)
    assert "profile 1" in str(caught.value)


def test_too_many_profiles_and_odd_numbers_of_devices() -> None:
    with pytest.raises(UsageError, match="expected at most 100 profiles; received 101"):
        parse_profiles([{}] * 101)
    for num_devices, seed in ((-1, 0), (1, -1)):
        with pytest.raises(UsageError, match="expected devices and seed of at least 0"):
            draw_profiles((), num_devices, seed)


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    PLAIN | st.sampled_from(["22:00", "06:30"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["uniform", "lognormal", "choice", "daily", "jitter_sec", "idle", "slot_sec", "x"]
            ),
            inner,
            max_size=2,
        )
    ),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(
    table=st.dictionaries(
        st.sampled_from(["name", "share", *NUMBERS, "availability"]) | st.text(max_size=4), VALUES, max_size=3
    ),
    seed=st.integers(0, 10),
)
def test_no_settings_raise_anything_else_and_what_is_drawn_makes_sense(
    table: dict[str, Any], seed: int
) -> None:
    try:
        parsed = parse_profiles([table])
    except UsageError:
        return
    for profile in draw_profiles(parsed, 3, seed):
        assert profile.examples_per_sec > 0
        assert profile.down_bytes_per_sec > 0
        assert 0 <= profile.drop_out_probability <= 1
        assert profile.availability.available_sec > 0
        assert math.isfinite(costs.finish_at(profile, 1e5, 1e5))


@pytest.mark.parametrize("name", packaged_fleets())
def test_fleets_of_the_package(name: str) -> None:
    profiles = fleet_profiles(name, None, 300, seed=0)
    kinds = {kind.name for kind in profile_settings(name)}
    assert {profile.name for profile in profiles} == kinds
    assert len(kinds) >= 2
    for kind in profile_settings(name):
        assert set(kind.numbers) == set(NUMBERS)  # a fleet leaves nothing to the defaults
    speeds = [profile.examples_per_sec for profile in profiles]
    assert max(speeds) > 10 * min(speeds)


def test_a_fleet_of_the_package_at_another_model_s_speed() -> None:
    """All of it fifteen times as fast in training, and otherwise the same devices."""
    plain = fleet_profiles("phones-2024", None, 40, seed=2)
    fast = fleet_profiles({"fleet": "phones-2024", "speed": 15}, None, 40, seed=2)
    for slow, quick in zip(plain, fast, strict=True):
        assert quick.examples_per_sec == pytest.approx(15 * slow.examples_per_sec)
        assert replace(quick, examples_per_sec=slow.examples_per_sec) == slow
    uniform, chosen = (
        parse_profiles(one(f"examples_per_sec = {text}"))[0].numbers["examples_per_sec"].times(2).values
        for text in ("{uniform = [1, 2]}", "{choice = [3, 4, 5]}")
    )
    assert (uniform, chosen) == ((2, 4), (6, 8, 10))
    for odd, words in (
        ({"fleet": "phones-2024", "speed": 0.0}, "speed is 0.0; expected a factor"),
        ({"fleet": "phones-2024", "speed": "fast"}, "speed is 'fast'; expected a number"),
        ({"fleet": "x"}, "no fleet is called 'x'"),
        ({"speed": 2.0}, "no fleet is called ''"),
        ({"name": "x"}, "profiles has no setting 'name'; its settings: fleet, speed"),
    ):
        with pytest.raises(UsageError, match=words):
            profile_settings(odd)


def test_other_names_and_things_are_refused(tmp_path: Path) -> None:
    assert packaged_fleets() == ["phones-2024"]
    with pytest.raises(
        UsageError, match=r"no fleet is called 'phones-1999'; expected phones-2024, or \[\[prof"
    ):
        fleet_profiles("phones-1999", None, 1, seed=0)
    for odd in (3, [3], [{}, "x"]):
        with pytest.raises(UsageError, match=r"expected \[\[profiles\]\] tables or a fleet's name"):
            profile_settings(odd)
    with pytest.raises(DataError, match="cannot read"):
        fleet_profiles((), tmp_path / "absent.csv", 1, seed=0)


def test_a_record_s_profile_is_plain_json() -> None:
    night = Profile(availability=repeating([(0.0, DAY_SEC / 4)], DAY_SEC))
    body = json.loads(json.dumps(night.as_json()))
    assert body["availability"] == {"period_sec": DAY_SEC, "num_windows": 1, "share": 0.25}
    assert body["examples_per_sec"] == Profile.examples_per_sec
    assert set(body) == set(vars(night))
