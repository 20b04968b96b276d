"""Unfinished uploads as files: a state machine against a model of it, and offsets by hand."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fedfer.aggregator.partial_uploads import PartialLimits, PartialUploads, checked_offset
from fedfer.model.errors import RefusedError

DEVICES, NAMES = ("d0", "d1", "d2"), ("a" * 64, "b" * 64, "c" * 64)
LIMITS = PartialLimits(per_device=2, in_all=4, max_age_sec=100)
keys = st.tuples(st.sampled_from(DEVICES), st.sampled_from(NAMES))


class Uploads(RuleBasedStateMachine):
    """The model: the bytes of each upload and when they were added to."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.now_sec = 1_000_000.0
        self.model: dict[tuple[str, str], tuple[bytes, float]] = {}
        self.open()

    def open(self) -> None:
        self.files = PartialUploads(self.root / "partial", LIMITS, lambda: self.now_sec)

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    @rule(key=keys, data=st.binary(min_size=1, max_size=9))
    def append(self, key: tuple[str, str], data: bytes) -> None:
        self.now_sec += 1
        path = self.files.prepare(*key)
        with path.open("ab") as file:
            file.write(data)
        os.utime(path, (self.now_sec, self.now_sec))
        before, _ = self.model.pop(key, (b"", 0.0))
        self.forget_oldest([k for k in self.model if k[0] == key[0]], LIMITS.per_device - 1)
        self.forget_oldest(list(self.model), LIMITS.in_all - 1)
        self.model[key] = (before + data, self.now_sec)

    def forget_oldest(self, among: list[tuple[str, str]], keep: int) -> None:
        for key in sorted(among, key=lambda k: self.model[k][1])[: max(0, len(among) - keep)]:
            del self.model[key]

    @rule(key=keys)
    def drop(self, key: tuple[str, str]) -> None:
        self.files.drop(*key)
        self.model.pop(key, None)

    @rule(device=st.sampled_from(DEVICES))
    def drop_device(self, device: str) -> None:
        self.files.drop_device(device)
        self.model = {key: value for key, value in self.model.items() if key[0] != device}

    @precondition(lambda self: self.model)
    @rule(seconds=st.integers(1, 150))
    def time_passes(self, seconds: int) -> None:
        self.now_sec += seconds
        self.files.drop_old()
        oldest = self.now_sec - LIMITS.max_age_sec
        self.model = {key: value for key, value in self.model.items() if value[1] >= oldest}

    @rule()
    def start_again(self) -> None:
        self.open()
        oldest = self.now_sec - LIMITS.max_age_sec
        self.model = {key: value for key, value in self.model.items() if value[1] >= oldest}

    @invariant()
    def files_are_the_models(self) -> None:
        for device in DEVICES:
            for name in NAMES:
                held, _ = self.model.get((device, name), (b"", 0.0))
                assert self.files.offset(device, name) == len(held)
                assert not held or self.files.path(device, name).read_bytes() == held
        assert len(self.model) <= LIMITS.in_all


TestUploads = Uploads.TestCase
TestUploads.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)


def test_uploads_whose_bytes_are_coming_are_not_given_up(tmp_path: Path) -> None:
    """However many there are; the one that waits makes room, though it is newer."""
    busy = {("d0", name) for name in NAMES} | {("d1", "a" * 64)}
    files = PartialUploads(tmp_path / "partial", LIMITS, lambda: 1e12, lambda *key: key in busy)
    for number, key in enumerate([*sorted(busy), ("d2", "a" * 64), ("d2", "b" * 64)]):
        path = files.prepare(*key)
        path.write_bytes(b"abc")
        os.utime(path, (number, number))
    assert {key: files.offset(*key) for key in busy} == dict.fromkeys(busy, 3)
    assert [files.offset("d2", name) for name in NAMES[:2]] == [0, 3]
    files.drop_old()
    assert {key: files.offset(*key) for key in busy} == dict.fromkeys(busy, 3)
    assert files.offset("d2", NAMES[1]) == 0


def test_the_right_offset() -> None:
    assert [checked_offset("0", 0), checked_offset("17", 17), checked_offset("0017", 17)] == [0, 17, 17]


@pytest.mark.parametrize(
    "given", ["16", "18", "0", "-17", "+17", "17.0", "1e1", "", " ", "0x11", "\u0661\u0667", "9" * 400]
)
def test_any_other_offset_is_told_the_right_one(given: str) -> None:
    with pytest.raises(RefusedError, match="17 bytes came so far") as caught:
        checked_offset(given, 17)
    assert (caught.value.status, caught.value.code) == (409, "wrong_offset")
    assert caught.value.headers == {"Upload-Offset": "17"}
    assert len(str(caught.value)) < 200


def test_no_offset() -> None:
    with pytest.raises(RefusedError, match="expected a header Upload-Offset") as caught:
        checked_offset(None, 17)
    assert (caught.value.status, caught.value.code) == (400, "bad_request")
