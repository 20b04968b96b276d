from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fedfer.aggregator.config import RoundSettings
from fedfer.aggregator.rounds import Round, Update, accept, check_upload, join, open_round, resume, tick
from fedfer.model.errors import RefusedError, UsageError

BASE = "a" * 64


def opened(num_clients: int = 2, min_clients: int | None = None, deadline_sec: float = 10) -> Round:
    return open_round(1, BASE, RoundSettings(num_clients, min_clients, deadline_sec), now=100)


def sent(device_id: str, sha256: str = "b" * 64, num_examples: int = 5) -> Update:
    return Update(device_id, sha256, num_examples, received_bytes=9, loss=1.0, accuracy=0.5)


def joined(round_: Round, *device_ids: str) -> Round:
    for device_id in device_ids:
        round_, reason = join(round_, device_id)
        assert reason is None
    return round_


def refused(code: str) -> pytest.RaisesExc[RefusedError]:
    return pytest.raises(RefusedError, check=lambda error: error.code == code)


def test_closes_when_all_updates_are_in() -> None:
    round_ = joined(opened(2), "x", "y")
    round_ = accept(round_, sent("x"), BASE)
    assert (round_.phase, round_.free_places) == ("open", 0)
    round_ = accept(round_, sent("y"), BASE)
    assert round_.phase == "aggregating"
    assert list(round_.updates) == ["x", "y"]


def test_who_has_to_wait() -> None:
    round_ = accept(joined(opened(2), "x", "y"), sent("x"), BASE)
    assert join(round_, "x") == (round_, "already_reported")
    assert join(round_, "y") == (round_, None)
    assert join(round_, "z") == (round_, "round_full")
    assert join(accept(round_, sent("y"), BASE), "z")[1] == "aggregating"


def test_deadline_with_enough_updates_closes() -> None:
    round_ = accept(joined(opened(3, min_clients=1), "x", "y"), sent("x"), BASE)
    assert tick(round_, 109.9) is round_
    assert tick(round_, 110).phase == "aggregating"


def test_deadline_without_enough_updates_frees_silent_places() -> None:
    round_ = accept(joined(opened(2), "x", "silent"), sent("x"), BASE)
    renewed = tick(round_, 111)
    assert (renewed.phase, renewed.deadline_at, renewed.free_places) == ("open", 121, 1)
    assert renewed.updates == round_.updates
    assert join(renewed, "other")[1] is None


def test_device_that_lost_its_place_may_still_upload() -> None:
    """Three devices for two places: the first two updates count, the third comes too late."""
    round_ = tick(joined(opened(2), "slow", "slower"), 110)
    round_ = joined(round_, "fast", "faster")
    round_ = accept(round_, sent("slow"), BASE)
    assert (round_.phase, round_.free_places) == ("open", 0)
    round_ = accept(round_, sent("fast"), BASE)
    assert round_.phase == "aggregating"
    with refused("round_over"):
        accept(round_, sent("faster"), BASE)


def test_device_that_lost_its_place_may_take_one_again() -> None:
    round_ = joined(tick(joined(opened(1), "x"), 110), "x")
    assert (set(round_.assigned), set(round_.released)) == ({"x"}, set())


def test_repeat_changes_nothing_and_another_body_is_refused() -> None:
    round_ = accept(joined(opened(2), "x"), sent("x"), BASE)
    assert accept(round_, sent("x", num_examples=6), BASE) is round_
    with refused("already_reported"):
        accept(round_, sent("x", sha256="c" * 64), BASE)


def test_repeat_after_closing() -> None:
    round_ = accept(joined(opened(1), "x"), sent("x"), BASE)
    assert round_.phase == "aggregating"
    assert accept(round_, sent("x"), BASE) is round_


def test_refusals() -> None:
    round_ = joined(opened(2), "x")
    with refused("not_assigned"):
        check_upload(round_, "stranger", BASE)
    with refused("wrong_base"):
        check_upload(round_, "x", "f" * 64)
    for num_examples in (-1, 0, 1_000_001):
        with refused("bad_num_examples"):
            accept(round_, sent("x", num_examples=num_examples), BASE)


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
    ],
)
def test_settings_that_make_no_round(changed: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(RoundSettings(), **changed)  # type: ignore[arg-type]


class RoundMachine(RuleBasedStateMachine):
    """Devices that join, upload, repeat and fall silent while time passes, in any order."""

    @initialize(num_clients=st.integers(1, 4), data=st.data(), deadline_sec=st.integers(1, 20))
    def begin(self, num_clients: int, data: st.DataObject, deadline_sec: int) -> None:
        min_clients = data.draw(st.integers(1, num_clients))
        self.now = 0.0
        self.round_ = open_round(1, BASE, RoundSettings(num_clients, min_clients, deadline_sec), self.now)
        self.accepted: dict[str, Update] = {}
        self.given_work: set[str] = set()

    devices = st.sampled_from(["a", "b", "c", "d", "e", "f"])

    @rule(device=devices)
    def ask_for_work(self, device: str) -> None:
        free, had_place = self.round_.free_places, device in self.round_.assigned
        self.round_, reason = join(self.round_, device)
        if reason is None:
            assert had_place or free > 0
            self.given_work.add(device)

    @rule(device=devices, body=st.sampled_from(["1" * 64, "2" * 64]))
    def upload(self, device: str, body: str) -> None:
        before = self.round_
        try:
            self.round_ = accept(before, sent(device, body), BASE)
        except RefusedError as error:
            self.check_refusal(before, device, body, error.code)
            return
        if device in self.accepted:
            assert self.round_ is before
            assert self.accepted[device].sha256 == body
        else:
            assert device in self.given_work
            self.accepted[device] = self.round_.updates[device]
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
        self.round_ = tick(before, self.now)
        if self.now < before.deadline_at:
            assert self.round_ is before
        elif len(self.accepted) >= before.settings.required_clients:
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
        assert dict(self.round_.updates) == self.accepted
        assert len(self.accepted) <= self.round_.settings.num_clients

    @invariant()
    def a_device_is_in_one_place(self) -> None:
        round_ = self.round_
        assert not round_.assigned & round_.released
        assert not (round_.assigned | round_.released) & self.accepted.keys()
        assert round_.assigned | round_.released | self.accepted.keys() == self.given_work

    @invariant()
    def an_open_round_wants_more(self) -> None:
        if self.round_.phase == "open":
            assert len(self.accepted) < self.round_.settings.num_clients
            assert self.round_.free_places + len(self.round_.assigned) > 0


TestRoundMachine = RoundMachine.TestCase
TestRoundMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
