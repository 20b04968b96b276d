from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fedfer.aggregator.config import RoundSettings
from fedfer.aggregator.rounds import (
    Base,
    Place,
    Round,
    Update,
    accept,
    busy_devices,
    check_upload,
    join,
    open_round,
    required_updates,
    resume,
    select,
    tick,
)
from fedfer.model.errors import RefusedError, UsageError

BASE = "a" * 64
FLEET = ["a", "b", "c", "d", "e", "f"]


def opened(num_clients: int = 2, min_clients: int | None = None, deadline_sec: float = 10) -> Round:
    """Round 1 with as many places as updates are wanted, for whoever asks."""
    settings = RoundSettings(num_clients, min_clients, deadline_sec, over_selection=1, selection_sec=0)
    return select(open_round(1, Base(BASE), settings, now=100), FLEET, now=100)


def sent(device_id: str, sha256: str = "b" * 64, num_examples: int = 5, work_round: int = 1) -> Update:
    return Update(device_id, work_round, sha256, num_examples, received_bytes=9, loss=1.0, accuracy=0.5)


def taken(round_: Round, update: Update, base_weights: str = BASE) -> Round:
    """The round after an upload for work that was given in it."""
    return accept(round_, round_.place_of(update.device_id), update, base_weights)


def joined(round_: Round, *device_ids: str) -> Round:
    for device_id in device_ids:
        round_, reason = join(round_, device_id, now=100)
        assert reason is None
    return round_


def refused(code: str) -> pytest.RaisesExc[RefusedError]:
    return pytest.raises(RefusedError, check=lambda error: error.code == code)


def test_closes_when_all_updates_are_in() -> None:
    round_ = joined(opened(2), "x", "y")
    round_ = taken(round_, sent("x"))
    assert (round_.phase, round_.free_places(100)) == ("open", 0)
    round_ = taken(round_, sent("y"))
    assert round_.phase == "aggregating"
    assert list(round_.updates) == [("x", 1), ("y", 1)]


def test_who_has_to_wait() -> None:
    round_ = taken(joined(opened(2), "x", "y"), sent("x"))
    assert join(round_, "x", now=100) == (round_, "already_reported")
    assert join(round_, "y", now=100) == (round_, None)
    assert join(round_, "z", now=100) == (round_, "round_full")
    assert join(taken(round_, sent("y")), "z", now=100)[1] == "aggregating"


def test_more_places_than_updates_are_given_and_the_first_updates_count() -> None:
    """ceil(1.3 * 4) = 6 places for 4 updates: nobody waits for the slowest two."""
    settings = RoundSettings(4, over_selection=1.3)
    round_ = select(open_round(1, Base(BASE), settings, now=100), FLEET, now=100)
    round_ = joined(round_, *FLEET)
    for device_id in FLEET[:4]:
        round_ = taken(round_, sent(device_id))
    assert (round_.phase, len(round_.updates)) == ("aggregating", 4)
    with refused("round_over"):
        taken(round_, sent("e"))


def test_places_are_kept_for_those_that_were_drawn() -> None:
    settings = RoundSettings(2, over_selection=1.5, selection_sec=30)
    round_ = select(open_round(1, Base(BASE), settings, now=50), FLEET, now=100)
    assert (set(round_.reserved), round_.deadline_at) == ({"a", "b", "c"}, 700)
    assert join(round_, "f", now=129)[1] == "not_selected"
    round_, reason = join(round_, "c", now=129)
    assert (reason, set(round_.assigned), set(round_.reserved)) == (None, {"c"}, {"a", "b"})
    late = round_
    for device_id in ("f", "e"):
        late, reason = join(late, device_id, now=130)
        assert reason is None
    assert join(late, "a", now=130)[1] == "round_full"


def test_with_a_place_for_everybody_nothing_is_kept() -> None:
    settings = RoundSettings(6, selection_sec=30)
    round_ = select(open_round(1, Base(BASE), settings, now=100), FLEET, now=100)
    assert (round_.reserved, round_.free_places(100)) == (frozenset(), 8)
    assert join(round_, "stranger", now=100)[1] is None


def test_a_fraction_of_the_devices_that_are_there() -> None:
    """m = max(ceil(C * K), 1): McMahan et al. 2017, Algorithm 1."""
    for fraction, count in ((0.01, 1), (0.34, 3), (0.5, 3), (1.0, 6)):
        settings = RoundSettings(fraction=fraction, over_selection=1)
        round_ = select(open_round(1, Base(BASE), settings, now=100), FLEET, now=100)
        assert (round_.settings.num_clients, round_.settings.fraction) == (count, None)
        assert len(round_.reserved) == (count if count < 6 else 0)


def test_a_fraction_that_comes_out_small_or_large() -> None:
    """Of 6 devices 2 are a third: the minimum of 5 cannot be had, but what the strategy needs is."""
    settings = RoundSettings(fraction=0.3, min_clients=5)
    few = select(open_round(1, Base(BASE), settings, now=100), FLEET, now=100).settings
    assert (few.num_clients, few.min_clients) == (2, 2)
    settings = RoundSettings(fraction=0.3, min_updates=5)
    needed = select(open_round(1, Base(BASE), settings, now=100), FLEET, now=100).settings
    assert needed.num_clients == 5
    crowd = [str(number) for number in range(30_000)]
    many = select(open_round(1, Base(BASE), RoundSettings(fraction=0.5), now=100), crowd, now=100)
    assert many.settings.num_clients == 10_000


def test_nothing_begins_before_enough_devices_are_there() -> None:
    round_ = open_round(1, Base(BASE), RoundSettings(min_devices=3), now=100)
    assert select(round_, FLEET[:2], now=110) is round_
    assert join(round_, "a", now=110) == (round_, "too_few_devices")
    assert tick(round_, 10_000, num_active=2) is round_
    assert select(round_, FLEET[:3], now=110).selected_at == 110


def test_updates_that_suffice_at_the_deadline() -> None:
    """Half of those wanted, or of the devices there; what was asked for; what the strategy needs."""
    for wanted, num_active, needed in (
        (RoundSettings(5), 9, 3),
        (RoundSettings(5), 2, 1),
        (RoundSettings(5), 0, 1),
        (RoundSettings(5, 4), 2, 4),
        (RoundSettings(7, min_updates=5), 7, 5),
    ):
        round_ = open_round(1, Base(BASE), wanted, now=100)
        assert required_updates(round_, num_active) == needed


def async_round(number: int = 5, max_staleness: int = 2) -> Round:
    settings = RoundSettings(2, mode="async", max_staleness=max_staleness)
    return select(open_round(number, Base(BASE, number - 1), settings, now=100), FLEET, now=100)


def test_a_buffer_takes_stale_updates() -> None:
    """Work of round 3 and of round 5 fill round 5's buffer, here of one device."""
    round_, _ = join(async_round(), "a", now=100)
    old = Place("a", 3, "0" * 64)
    round_ = accept(round_, old, sent("a", "1" * 64, work_round=3), "0" * 64)
    assert (round_.phase, set(round_.assigned)) == ("open", {"a"})
    round_ = accept(round_, round_.place_of("a"), sent("a", "2" * 64, work_round=5), BASE)
    assert (round_.phase, list(round_.updates)) == ("aggregating", [("a", 3), ("a", 5)])


def test_a_buffer_refuses_what_is_too_old_or_was_not_given() -> None:
    round_ = async_round()
    with refused("too_stale"):
        check_upload(round_, Place("a", 2, "0" * 64), "0" * 64)
    with refused("wrong_base"):
        check_upload(round_, Place("a", 3, "0" * 64), BASE)
    with refused("not_assigned"):
        check_upload(round_, None, BASE)
    with refused("round_over"):
        check_upload(joined(opened(2), "a"), Place("a", 0, "0" * 64), "0" * 64)


def test_everybody_who_asks_a_buffer_gets_work_once_a_version() -> None:
    round_ = async_round()
    for device_id in FLEET:
        round_, reason = join(round_, device_id, now=100)
        assert reason is None
    round_ = accept(round_, round_.place_of("a"), sent("a", work_round=5), BASE)
    assert join(round_, "a", now=100)[1] == "already_reported"


def limited(max_training: int, busy: dict[str, int]) -> Round:
    settings = RoundSettings(2, mode="async", max_training=max_training)
    return select(open_round(5, Base(BASE, 4), settings, now=100, busy=busy), FLEET, now=100)


def test_a_buffer_gives_work_to_so_many_devices_at_a_time() -> None:
    """Three: x has work of round 3, a and b take some; c waits until one of them has reported."""
    round_ = joined(limited(3, {"x": 3}), "a", "b")
    assert join(round_, "c", now=100) == (round_, "round_full")
    done = accept(round_, Place("x", 3, "0" * 64), sent("x", "1" * 64, work_round=3), "0" * 64)
    assert (done.busy, done.free_places(100)) == ({}, 1)
    assert join(done, "c", now=100)[1] is None
    done = accept(round_, round_.place_of("a"), sent("a", work_round=5), BASE)
    assert join(done, "c", now=100)[1] is None


def test_a_busy_device_that_asks_again_has_the_newest_work() -> None:
    round_ = joined(limited(2, {"x": 3, "y": 4}), "x")
    assert (set(round_.assigned), dict(round_.busy), round_.free_places(100)) == ({"x"}, {"y": 4}, 0)
    late = accept(round_, Place("y", 3, "0" * 64), sent("y", "1" * 64, work_round=3), "0" * 64)
    assert late.busy == {"y": 4}  # it sent older work; of round 4 it has some still


def test_a_deadline_frees_what_silent_devices_hold() -> None:
    renewed = tick(limited(2, {"x": 3, "y": 4}), 10_000, num_active=6)
    assert (renewed.phase, renewed.busy, renewed.free_places(10_000)) == ("open", {}, 2)


def test_who_is_busy_by_places_and_reports() -> None:
    """a's newest work is answered though an older one is not; b has asked twice; c never reported."""
    places = [("a", 2), ("a", 3), ("b", 3), ("b", 4), ("c", 2)]
    assert busy_devices(places, {("a", 3), ("b", 3)}) == {"b": 4, "c": 2}


def test_deadline_with_enough_updates_closes() -> None:
    round_ = taken(joined(opened(3, min_clients=1), "x", "y"), sent("x"))
    assert tick(round_, 109.9, num_active=6) is round_
    assert tick(round_, 110, num_active=6).phase == "aggregating"


def test_deadline_without_enough_updates_frees_silent_places() -> None:
    round_ = taken(joined(opened(2, min_clients=2), "x", "silent"), sent("x"))
    renewed = tick(round_, 111, num_active=6)
    assert (renewed.phase, renewed.deadline_at, renewed.free_places(111)) == ("open", 121, 1)
    assert renewed.updates == round_.updates
    assert join(renewed, "other", now=111)[1] is None


def test_device_that_lost_its_place_may_still_upload() -> None:
    """Three devices for two places: the first two updates count, the third comes too late."""
    round_ = tick(joined(opened(2), "slow", "slower"), 110, num_active=6)
    round_ = joined(round_, "fast", "faster")
    round_ = taken(round_, sent("slow"))
    assert (round_.phase, round_.free_places(100)) == ("open", 0)
    round_ = taken(round_, sent("fast"))
    assert round_.phase == "aggregating"
    with refused("round_over"):
        taken(round_, sent("faster"))


def test_device_that_lost_its_place_may_take_one_again() -> None:
    round_ = joined(tick(joined(opened(1), "x"), 110, num_active=6), "x")
    assert (set(round_.assigned), set(round_.released)) == ({"x"}, set())


def test_repeat_changes_nothing_and_another_body_is_refused() -> None:
    round_ = taken(joined(opened(2), "x"), sent("x"))
    assert taken(round_, sent("x", num_examples=6)) is round_
    with refused("already_reported"):
        taken(round_, sent("x", sha256="c" * 64))


def test_repeat_after_closing() -> None:
    round_ = taken(joined(opened(1), "x"), sent("x"))
    assert round_.phase == "aggregating"
    assert taken(round_, sent("x")) is round_


def test_refusals() -> None:
    round_ = joined(opened(2), "x")
    with refused("not_assigned"):
        check_upload(round_, round_.place_of("stranger"), BASE)
    with refused("wrong_base"):
        check_upload(round_, round_.place_of("x"), "f" * 64)
    for num_examples in (-1, 0, 1_000_001):
        with refused("bad_num_examples"):
            taken(round_, sent("x", num_examples=num_examples))


def test_resume_gives_time_to_come_back() -> None:
    round_ = opened(deadline_sec=600)
    assert resume(round_, now=200).deadline_at == 700
    assert resume(round_, now=5000).deadline_at == 5060
    assert resume(opened(deadline_sec=10), now=5000).deadline_at == 5010


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_clients": 0}, "clients is 0; expected 1 to 10000"),
        ({"min_clients": 4}, "min-clients is 4; expected 1 to clients"),
        ({"min_clients": 0}, "min-clients is 0"),
        ({"deadline_sec": 0}, "deadline-sec is 0"),
        ({"deadline_sec": float("nan")}, "deadline-sec is nan"),
        ({"local_epochs": 0}, "local-epochs is 0"),
        ({"batch_size": 0}, "batch-size is 0"),
        ({"learning_rate": float("inf")}, "learning-rate is inf"),
        ({"learning_rate_decay": 0.0}, "learning-rate-decay is 0.0; expected a number above 0, at most 1"),
        ({"learning_rate_decay": 1.1}, "learning-rate-decay is 1.1"),
        ({"learning_rate_decay": float("nan")}, "learning-rate-decay is nan"),
        ({"fraction": 0.0}, "fraction is 0"),
        ({"over_selection": 0.9}, "over-selection is 0.9; expected 1 to 10"),
        ({"selection_sec": -1}, "selection-sec is -1"),
        ({"min_devices": 0}, "min-devices is 0"),
        ({"mode": "both"}, "mode is both; expected sync or async"),
        ({"max_staleness": -1}, "max-staleness is -1"),
        ({"max_training": 0}, "max-training is 0"),
    ],
)
def test_settings_that_make_no_round(changed: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(RoundSettings(), **changed)  # type: ignore[arg-type]


def test_learning_rates_by_hand() -> None:
    halved = RoundSettings(learning_rate_decay=0.5)
    assert [halved.learning_rate_of(number, 0.8) for number in (1, 2, 3)] == [0.8, 0.4, 0.2]
    assert replace(halved, learning_rate=0.4).learning_rate_of(2, 0.8) == 0.2
    assert RoundSettings().learning_rate_of(99, 0.8) == 0.8
    assert halved.learning_rate_of(10**9, 0.8) == 0.8e-6


class RoundMachine(RuleBasedStateMachine):
    """Devices that join, upload, repeat and fall silent while time passes, in any order."""

    @initialize(num_clients=st.integers(1, 4), data=st.data(), deadline_sec=st.integers(1, 20))
    def begin(self, num_clients: int, data: st.DataObject, deadline_sec: int) -> None:
        settings = RoundSettings(
            num_clients,
            data.draw(st.integers(1, num_clients)),
            deadline_sec,
            over_selection=data.draw(st.sampled_from([1.0, 1.3, 2.0])),
            selection_sec=data.draw(st.integers(0, 20)),
        )
        self.now = 0.0
        ranked = data.draw(st.permutations(FLEET))
        self.round_ = select(open_round(1, Base(BASE), settings, self.now), ranked, self.now)
        self.accepted: dict[str, Update] = {}
        self.given_work: set[str] = set()

    devices = st.sampled_from(FLEET)

    @rule(device=devices)
    def ask_for_work(self, device: str) -> None:
        before = self.round_
        kept = device in before.reserved and before.keeps_places(self.now)
        self.round_, reason = join(before, device, self.now)
        if reason is None:
            assert device in before.assigned or kept or before.free_places(self.now) > 0
            self.given_work.add(device)

    @rule(device=devices, body=st.sampled_from(["1" * 64, "2" * 64]))
    def upload(self, device: str, body: str) -> None:
        before = self.round_
        try:
            self.round_ = taken(before, sent(device, body))
        except RefusedError as error:
            self.check_refusal(before, device, body, error.code)
            return
        if device in self.accepted:
            assert self.round_ is before
            assert self.accepted[device].sha256 == body
        else:
            assert device in self.given_work
            self.accepted[device] = self.round_.updates[device, 1]
            full = len(self.accepted) == before.settings.num_clients
            assert self.round_.phase == ("aggregating" if full else "open")

    def check_refusal(self, before: Round, device: str, body: str, code: str) -> None:
        if device in self.accepted:
            assert (code, self.accepted[device].sha256 == body) == ("already_reported", False)
        elif before.phase != "open":
            assert code == "round_over"
        else:
            assert code == "not_assigned"
            assert device not in self.given_work

    @precondition(lambda self: self.round_.phase == "open")
    @rule(passed_sec=st.integers(0, 15))
    def time_passes(self, passed_sec: int) -> None:
        before = self.round_
        self.now += passed_sec
        self.round_ = tick(before, self.now, num_active=6)
        if self.now < before.deadline_at:
            assert self.round_ is before
        elif len(self.accepted) >= (before.settings.min_clients or 0):
            assert self.round_.phase == "aggregating"
        else:
            assert self.round_.phase == "open"
            assert self.round_.deadline_at == self.now + before.settings.deadline_sec
            assert not self.round_.assigned

    @rule()
    def server_restarts(self) -> None:
        if self.round_.phase == "open":
            self.round_ = resume(self.round_, self.now)

    @invariant()
    def accepted_updates_are_kept(self) -> None:
        assert {id_: update for (id_, _), update in self.round_.updates.items()} == self.accepted
        assert len(self.accepted) <= self.round_.settings.num_clients

    @invariant()
    def a_device_is_in_one_place(self) -> None:
        round_ = self.round_
        assert not round_.assigned & round_.released
        assert not (round_.assigned | round_.released) & self.accepted.keys()
        assert round_.assigned | round_.released | self.accepted.keys() == self.given_work

    @invariant()
    def no_more_train_than_there_are_places(self) -> None:
        round_ = self.round_
        kept = len(round_.reserved) if round_.keeps_places(self.now) else 0
        assert len(round_.assigned) + kept <= round_.settings.num_places

    @invariant()
    def an_open_round_wants_more(self) -> None:
        if self.round_.phase == "open":
            assert len(self.accepted) < self.round_.settings.num_clients
            later = self.now + 20  # when no place is kept any more
            assert self.round_.free_places(later) + len(self.round_.assigned) > 0


TestRoundMachine = RoundMachine.TestCase
TestRoundMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
