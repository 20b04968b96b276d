import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from postgres import database_url, on_sqlite
from sqlalchemy import Engine
from sqlalchemy.event import listen, remove
from waiting import wait_for

from fedfer.aggregator.blobs import Blobs
from fedfer.aggregator.config import RoundSettings
from fedfer.aggregator.device_store import Device, KnownDevice
from fedfer.aggregator.gates import Rejection
from fedfer.aggregator.results import End, Result
from fedfer.aggregator.rounds import Base, Round, Update, accept, join, open_round, select, tick
from fedfer.aggregator.run_store import RunRow
from fedfer.aggregator.store import Store
from fedfer.model.errors import StoreError

BASE, NEXT, THIRD = "a" * 64, "b" * 64, "d" * 64
RUN = RunRow("default", "1" * 64, {}, "running", None, 100.0)
SETTINGS = RoundSettings(num_clients=2, min_clients=1, deadline_sec=30, learning_rate=0.5)


def opened(data_dir: Path) -> Store:
    blobs = Blobs(data_dir)
    try:
        return Store(blobs, database_url(data_dir))
    except BaseException:
        blobs.close()
        raise


def begun(store: Store) -> Round:
    """Round 1 of a new run."""
    first = open_round(1, Base(BASE), SETTINGS, now=100)
    store.runs.add_model(RUN.model, "2" * 64, 5)
    initial = Result("committed", BASE, 100, BASE, holdout_loss=2.0, holdout_accuracy=0.25)
    store.rounds("default").begin(RUN, initial, first)
    return first


def with_round(data_dir: Path) -> tuple[Store, Round]:
    """A store with round 1 open and devices x and y enrolled."""
    store = opened(data_dir)
    for device_id in ("x", "y"):
        assert store.devices.add(
            Device(device_id, f"phone-{device_id}"), device_id * 64, 100, 5, max_devices=2
        )
    first = select(begun(store), ["x", "y"], now=100)
    store.rounds("default").give_out(first)
    return store, first


def stored_round(store: Store) -> Round:
    latest = store.rounds("default").latest()
    assert latest is not None
    return latest[0]


def reopened(store: Store) -> Store:
    store.close()
    return opened(store.blobs.root)


def test_devices(tmp_path: Path) -> None:
    store, _ = with_round(tmp_path)
    assert store.devices.by_token("x" * 64) == KnownDevice(Device("x", "phone-x"), "x" * 64, 100)
    assert store.devices.by_token("z" * 64) is None
    assert not store.devices.add(Device("z", "phone-z"), "z" * 64, 100, 5, max_devices=2)
    assert store.devices.count() == 2
    store.close()


def test_a_round_comes_back_as_it_was(tmp_path: Path) -> None:
    store, round_ = with_round(tmp_path)
    for device_id in ("x", "y"):
        round_, _ = join(round_, device_id, now=100)
        store.rounds("default").take_places(1, [device_id])
    update = Update("x", 1, "c" * 64, 7, 2**40, 1.5, 0.25, None)
    after = accept(round_, round_.place_of("x"), update, BASE)
    store.rounds("default").add_update(round_, update, after)
    store = reopened(store)
    assert stored_round(store) == after
    assert store.rounds("default").find_update(1, "x") == update
    assert store.rounds("default").find_update(1, "y") is None
    store.close()


def test_deadline_that_frees_places(tmp_path: Path) -> None:
    store, round_ = with_round(tmp_path)
    round_, _ = join(round_, "x", now=100)
    store.rounds("default").take_places(1, ["x"])
    round_ = tick(round_, now=130, num_active=2)
    store.rounds("default").pass_deadline(round_)
    assert stored_round(store) == round_
    assert (set(round_.released), round_.deadline_at) == ({"x"}, 160)
    round_, _ = join(round_, "x", now=100)
    store.rounds("default").take_places(1, ["x"])
    store = reopened(store)
    assert stored_round(store) == round_
    store.close()


def test_finish_opens_the_next_round(tmp_path: Path) -> None:
    store, first = with_round(tmp_path)
    following = open_round(2, Base(NEXT, 1, "5" * 64), SETTINGS, now=120)
    store.rounds("default").add_bytes_down(1, 10)
    store.rounds("default").add_bytes_down(1, 2**40)
    committed = Result("committed", NEXT, 120, NEXT, "5" * 64, 1.5, 0.5)
    store.rounds("default").finish(first, committed, following, None)
    store = reopened(store)
    assert stored_round(store) == following
    zero, one, two = store.rounds("default").rows()
    assert (zero["number"], zero["holdout_loss"], zero["base_weights"]) == (0, 2.0, None)
    assert (one["phase"], one["result_weights"], one["bytes_down"]) == ("done", NEXT, 10 + 2**40)
    assert (two["phase"], two["result_weights"], two["settings"]["learning_rate"]) == ("open", None, 0.5)
    assert store.rounds("default").rows(7) == []
    assert store.rounds("default").base_of(2) == NEXT
    store.rounds("default").finish(
        following, Result("committed", THIRD, 130), None, End("rounds", "all done")
    )
    assert store.rounds("default").latest() == (replace(following, phase="done"), THIRD)
    assert store.rounds("default").last_durations_sec(5) == [20.0]
    store.close()


def test_versions(tmp_path: Path) -> None:
    store, first = with_round(tmp_path)
    following = open_round(2, Base(NEXT, 1), SETTINGS, now=120)
    store.rounds("default").finish(first, Result("committed", NEXT, 120, NEXT, "5" * 64), following, None)
    store.rounds("default").finish(following, Result("rolled_back", NEXT, 130, THIRD), None, None)
    store = reopened(store)
    versions = store.versions("default")
    assert [(v.round, v.weights, v.parent_round, v.state, v.is_kept) for v in versions.all()] == [
        (0, BASE, None, None, True),
        (1, NEXT, 0, "5" * 64, True),
    ]
    assert [versions.has(name) for name in (BASE, NEXT, THIRD)] == [True, True, False]
    versions.tag("good", 0)
    versions.tag("good", 1)
    versions.tag("first", 0)
    assert [version.tags for version in versions.all()] == [("first",), ("good",)]
    assert [versions.untag("first"), versions.untag("first")] == [True, False]
    versions.drop(NEXT, now=140)
    assert [versions.has(NEXT), versions.is_kept_by_any(NEXT), versions.has_state("5" * 64)] == [False] * 3
    assert [version.is_kept for version in versions.all()] == [True, False]
    store.close()


def test_rejections_are_kept_with_their_updates(tmp_path: Path) -> None:
    store, round_ = with_round(tmp_path)
    rounds = store.rounds("default")
    for device_id in ("x", "y"):
        before, _ = join(round_, device_id, now=100)
        rounds.take_places(1, [device_id])
        update = Update(device_id, 1, device_id * 64, 7, 9, 1.5, 0.25)
        round_ = accept(before, before.place_of(device_id), update, BASE)
        rounds.add_update(before, update, round_)
    assert store.versions("default").updates() == {}  # the round is still open
    why = Rejection("norm_too_large", "too far")
    result = Result("committed", NEXT, 120, NEXT, rejections={("y", 1): why})
    rounds.finish(round_, result, None, None)
    assert rounds.last_rejections(1) == {"y": (1, why)}
    assert rounds.last_rejections(0) == {}
    assert rounds.num_rejected() == 1
    told = [(sent["device_name"], sent["code"], sent["reason"]) for sent in rounds.rows(1)[0]["updates"]]
    assert told == [("phone-x", None, None), ("phone-y", "norm_too_large", "too far")]
    assert store.versions("default").updates() == {1: ("x" * 64,)}
    assert store.versions("other").updates() == {}
    store.close()


@pytest.mark.parametrize("rejected", [(), (1,), (2,), (1, 2)])
def test_of_two_updates_of_a_device_in_a_buffer_the_last_one_counts(
    tmp_path: Path, rejected: tuple[int, ...]
) -> None:
    """That of round 2 came before the late one of round 1."""
    store, _ = with_round(tmp_path)
    rounds = store.rounds("default")
    settings = RoundSettings(2, mode="async")
    rounds.finish(open_round(1, Base(BASE), settings, 100), Result("committed", NEXT, 110, NEXT), None, None)
    round_ = open_round(2, Base(NEXT, 1), settings, 110)
    rounds.begin_again(round_, None, round_)
    for work_round in (2, 1):
        update = Update("x", work_round, str(work_round) * 64, 7, 9, 1.5, 0.25)
        after = replace(round_, updates={**round_.updates, update.key: update})
        rounds.add_update(round_, update, after)
        round_ = after
    why = {("x", number): Rejection("norm_too_large", str(number)) for number in rejected}
    rounds.finish(round_, Result("committed", THIRD, 120, THIRD, rejections=why), None, None)
    expected = {"x": (2, Rejection("norm_too_large", "1"))} if 1 in rejected else {}
    assert rounds.last_rejections(2) == expected
    given_up = open_round(3, Base(THIRD, 2), settings, 120)
    rounds.begin_again(round_, None, given_up)
    sent = Update("x", 3, "3" * 64, 7, 9, 1.5, 0.25)
    rounds.add_update(given_up, sent, replace(given_up, updates={sent.key: sent}))
    again = open_round(4, Base(THIRD, 2), settings, 130)
    rounds.begin_again(given_up, Result("abandoned", THIRD, 130), again)
    assert rounds.last_rejections(3) == expected  # nothing came of that round
    store.close()


def test_reserved_places_are_no_work_yet(tmp_path: Path) -> None:
    store = opened(tmp_path)
    rounds = store.rounds("default")
    store.runs.add_model(RUN.model, "2" * 64, 5)
    for device_id in ("x", "y"):
        assert store.devices.add(Device(device_id, device_id), device_id * 64, 100, 5, max_devices=2)
    settings = RoundSettings(1, over_selection=1, fraction=0.5)
    first = open_round(1, Base(BASE), settings, now=100)
    rounds.begin(RUN, Result("committed", BASE, 100), first)
    drawn = select(first, ["y", "x"], now=150)
    rounds.give_out(drawn)
    store = reopened(store)
    rounds = store.rounds("default")
    assert stored_round(store) == drawn
    assert set(drawn.reserved) == {"y"}
    assert rounds.find_place(1, "y") is None
    joined, _ = join(drawn, "y", now=150)
    rounds.take_places(1, ["y"])
    assert stored_round(store) == joined
    assert rounds.find_place(1, "y") == joined.place_of("y")
    store.close()


def test_active_devices(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for device_id, contract, now in (("a", None, 1000.0), ("b", "2" * 64, 1000.0), ("c", "3" * 64, 1000.0)):
        device = Device(device_id, device_id, contract)
        assert store.devices.add(device, device_id * 64, 9e9, now, max_devices=9)
    store.devices.see("a", 5000.0)
    assert {device.id for device in store.devices.active(900.0, "2" * 64)} == {"a", "b"}
    assert {device.id for device in store.devices.active(4900.0, "2" * 64)} == {"a"}
    assert store.devices.count_active(900.0, "2" * 64) == 2
    assert store.devices.count_active(4900.0, "2" * 64) == 1
    store.close()


def test_calls_are_noted_together(tmp_path: Path) -> None:
    """A minute of calls is one transaction: what the database has until then is the enrolment."""
    store = opened(tmp_path)
    for device_id in ("a", "b"):
        assert store.devices.add(Device(device_id, device_id), device_id * 64, 9e9, 1000.0, max_devices=9)
    written: list[str] = []
    with transactions(written):
        for second in range(60):
            store.devices.see("ab"[second % 2], 2000.0 + second)
        assert written == []
        store.devices.see("a", 2060.0)
        wait_for(lambda: len(written) == 1)
        store.devices.see("a", 2061.0)
        assert len(written) == 1
    store.close()


@on_sqlite
def test_a_locked_database_holds_up_no_call(tmp_path: Path) -> None:
    """A minute's calls are due to be written, and another program writes: they are, when it has ended."""
    store = opened(tmp_path)
    assert store.devices.add(Device("a", "a"), "a" * 64, 9e9, 1000.0, max_devices=9)
    other = sqlite3.connect(tmp_path / "fedfer.db", isolation_level=None)
    written: list[str] = []
    with transactions(written), closing(other):
        other.execute("BEGIN IMMEDIATE")
        for second in range(200):
            store.devices.see("a", 2000.0 + second)
        assert store.devices.count_active(900.0, "2" * 64) == 1
        other.execute("ROLLBACK")
        wait_for(lambda: len(written) > 0)
    store.close()


@contextmanager
def transactions(written: list[str]) -> Iterator[None]:
    """Adds every statement that changes devices to `written`."""

    def note(*event: object) -> None:
        if str(event[2]).startswith("UPDATE devices"):
            written.append(str(event[2]))

    listen(Engine, "before_cursor_execute", note)
    try:
        yield
    finally:
        remove(Engine, "before_cursor_execute", note)


def test_one_server_a_directory(tmp_path: Path) -> None:
    store = opened(tmp_path)
    with pytest.raises(StoreError, match="another server is using"):
        opened(tmp_path)
    reopened(store).close()


def test_runs(tmp_path: Path) -> None:
    store, first = with_round(tmp_path)
    assert store.runs.rows() == [RUN]
    assert (store.runs.find("default"), store.runs.find("other")) == (RUN, None)
    assert [store.runs.has_model(name) for name in (RUN.model, "3" * 64)] == [True, False]
    store.runs.set_settings("default", {"num_rounds": 3})
    store.rounds("default").finish(first, Result("committed", NEXT, 120), None, End("rounds", "all done"))
    store = reopened(store)
    ended = replace(RUN, settings={"num_rounds": 3}, state="finished", end=End("rounds", "all done"))
    assert store.runs.rows() == [ended]
    store.close()


def test_leftovers_are_removed(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    blobs.temporary_path().write_bytes(b"half an upload")
    for number in (1, 2, 10):
        blobs.write(blobs.update_path("default", number, "a"), b"update")
    blobs.close()
    blobs = Blobs(tmp_path)
    assert list((tmp_path / "tmp").iterdir()) == []
    blobs.drop_updates_before("default", 10)
    assert [path.name for path in (tmp_path / "updates" / "default").iterdir()] == ["10"]
    blobs.close()


@on_sqlite
def test_damaged_database_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "fedfer.db").write_bytes(b"this is no database" * 1000)
    blobs = Blobs(tmp_path)
    with pytest.raises(StoreError, match="file is not a database") as caught:
        Store(blobs)
    assert "\n" not in str(caught.value)
    blobs.close()


@on_sqlite
def test_overwritten_pages_are_found(tmp_path: Path) -> None:
    store, _ = with_round(tmp_path)
    store.close()
    path = tmp_path / "fedfer.db"
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    blobs = Blobs(tmp_path)
    with pytest.raises(StoreError, match=r"damaged|malformed"):
        Store(blobs)
    blobs.close()


@on_sqlite
def test_database_that_cannot_be_written(tmp_path: Path) -> None:
    store, round_ = with_round(tmp_path)
    other = sqlite3.connect(tmp_path / "fedfer.db", isolation_level=None)
    other.execute("DROP TABLE places")
    other.close()
    with pytest.raises(StoreError, match="cannot assign places: no such table"):
        store.rounds("default").take_places(round_.number, ["x"])
    store.close()


def test_runs_that_another_database_has(tmp_path: Path) -> None:
    """SQLite's file beside a database that is given by URL: refused if it has runs and the other has none."""
    path, url = tmp_path / "fedfer.db", f"sqlite:///{tmp_path / 'other.db'}"

    def check() -> None:
        with closing(Store(Blobs(tmp_path), url)) as store:
            store.check_none_is_left()

    check()
    path.write_bytes(b"")
    check()
    with closing(Store(Blobs(tmp_path))):
        pass
    check()
    with closing(Store(Blobs(tmp_path))) as store:
        begun(store)
        store.check_none_is_left()
    with pytest.raises(StoreError, match=r"fedfer\.db holds runs \(1\), .* move that file away$"):
        check()
    path.rename(tmp_path / "moved.db")
    with closing(Store(Blobs(tmp_path), url)) as store:
        begun(store)
    (tmp_path / "moved.db").rename(path)
    check()
    (tmp_path / "other.db").unlink()
    path.write_bytes(b"this is no database" * 1000)
    with pytest.raises(StoreError, match=r"cannot look for runs in .*: file is not a database; leave"):
        check()


@on_sqlite
def test_durability_settings(tmp_path: Path) -> None:
    store = opened(tmp_path)
    with store.database.read("look") as connection:
        values = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
    assert values == ["wal", 2, 1, 10_000]
    store.close()
