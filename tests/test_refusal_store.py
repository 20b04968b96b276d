"""Refused uploads: gathered, written together, counted, few of a round."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.event import listen
from test_store import with_round

from fedfer.aggregator import refusal_store
from fedfer.aggregator.gates import Rejection
from fedfer.aggregator.refusal_store import MAX_REASON_CHARS, WRITE_SEC, RefusalStore
from fedfer.aggregator.store import Store
from fedfer.model.errors import StoreError

NAMES = ("device_name", "code", "reason", "times", "last_at")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """With round 1 and the devices x and y."""
    store, _ = with_round(tmp_path)
    yield store
    store.close()


def told(refusals: RefusalStore) -> list[tuple[object, ...]]:
    return [tuple(row[name] for name in NAMES) for row in refusals.rows(1)]


def test_refusals_of_a_kind_are_one_row(store: Store) -> None:
    refusals = store.refusals("default")
    for reason, code, now in (("old", "stale", 100.0), ("", "not_finite", 101.5), ("new", "stale", 102.0)):
        refusals.note(1, "x", Rejection(code, reason), now)
    refusals.note(1, "y", Rejection("stale", "z" * 1000), 101.0)
    assert told(refusals) == [
        ("phone-y", "stale", "z" * MAX_REASON_CHARS, 1, 101.0),
        ("phone-x", "not_finite", "", 1, 101.5),
        ("phone-x", "stale", "new", 2, 102.0),
    ]
    assert refusals.counts() == {1: 4}
    assert store.refusals("other").counts() == {}


def test_many_are_few_transactions(store: Store) -> None:
    now, writes = [0.0], list[object]()
    refusals = RefusalStore(store.database, "default", lambda: now[0])
    listen(store.database._engine, "commit", writes.append)
    for _ in range(500):
        refusals.note(1, "x", Rejection("stale", "old"), 100.0)
        now[0] += WRITE_SEC / 100
    assert len(writes) == 5
    refusals.write()
    refusals.write()
    assert len(writes) == 6
    assert refusals.counts() == {1: 500}


def test_of_a_round_so_many_are_kept_also_after_a_restart(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusal_store, "MAX_KINDS", 3)
    for attempt in (1, 2):
        refusals = store.refusals("default")
        for code in ("a", "b", "c", "d", f"e-{attempt}"):
            refusals.note(1, "x", Rejection(code, ""), 100.0)
        assert [(row["code"], row["times"]) for row in refusals.rows(1)] == [(c, attempt) for c in "abc"]


def test_what_could_not_be_written_is_written_later(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = store.refusals("default")
    write = store.database.write
    with monkeypatch.context() as context:

        def failing(doing: str) -> None:
            refusals.note(1, "x", Rejection("stale", "meanwhile"), 102.0)
            raise StoreError(f"cannot {doing}")

        context.setattr(store.database, "write", failing)
        with pytest.raises(StoreError, match="cannot note refusals"):
            refusals.note(1, "x", Rejection("stale", "first"), 101.0)
    assert store.database.write == write
    assert told(refusals) == [("phone-x", "stale", "meanwhile", 2, 102.0)]
