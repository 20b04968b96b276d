"""Who is drawn when there are more devices than places."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from fedfer.aggregator.device_store import Device
from fedfer.aggregator.selection import ranked

FLEET = [Device(f"id-{i}", f"phone-{i}") for i in range(10)]


@given(st.permutations(FLEET), st.integers(-(2**63), 2**63 - 1), st.integers(1, 1000))
def test_the_order_does_not_depend_on_who_comes_first(
    fleet: list[Device], seed: int, round_number: int
) -> None:
    assert ranked(fleet, seed, "a", round_number) == ranked(FLEET, seed, "a", round_number)


def test_ids_that_the_server_gave_do_not_matter() -> None:
    others = [Device(f"other-{i}", f"phone-{i}") for i in range(10)]
    assert [id_.replace("other", "id") for id_ in ranked(others, 1, "a", 2)] == ranked(FLEET, 1, "a", 2)


def test_a_device_that_enrolled_again_is_one_device() -> None:
    again = Device("id-new", "phone-4")
    expected = [id_.replace("id-4", "id-new") for id_ in ranked(FLEET, 0, "a", 1)]
    assert ranked([*FLEET, again], 0, "a", 1) == expected


def test_seed_run_and_round_matter() -> None:
    orders = {tuple(ranked(FLEET, seed, run, n)) for seed in (0, 1) for run in "ab" for n in (1, 2)}
    assert len(orders) == 8


def test_everybody_is_drawn_about_as_often() -> None:
    """3 of 10 in 1000 rounds: 300 times each, give or take 4 standard deviations (58)."""
    drawn = Counter(id_ for n in range(1000) for id_ in ranked(FLEET, 0, "a", n)[:3])
    assert set(drawn) == {device.id for device in FLEET}
    assert all(abs(count - 300) < 58 for count in drawn.values())
