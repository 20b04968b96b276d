"""The versions of one run in the database: committed models, what each came of, and their tags."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from fedfer.aggregator import tables
from fedfer.aggregator.database import Database
from fedfer.aggregator.results import Result


@dataclass(frozen=True)
class Version:
    """A committed model, by the round that it came of (0: the initial one). `state` is what the strategy
    wants back with it; `is_kept` False when retention has deleted its files."""

    round: int
    weights: str
    parent_round: int | None
    state: str | None
    committed_at: float
    holdout_loss: float | None
    holdout_accuracy: float | None
    is_kept: bool
    tags: tuple[str, ...] = ()


def insert_version(
    connection: Connection, run: str, number: int, parent_round: int | None, result: Result
) -> None:
    """The version that a round's result is, as a part of the caller's transaction."""
    row = {
        "run": run,
        "round": number,
        "weights": result.weights,
        "parent_round": parent_round,
        "state": result.state,
        "committed_at": result.closed_at,
        "holdout_loss": result.holdout_loss,
        "holdout_accuracy": result.holdout_accuracy,
    }
    connection.execute(insert(tables.versions).values(row))


class VersionStore:
    """Methods raise StoreError."""

    def __init__(self, database: Database, run: str) -> None:
        self._database, self._run = database, run

    def all(self) -> list[Version]:
        """Oldest first."""
        table, tags = tables.versions, tables.tags
        with self._database.read("read versions") as connection:
            named: dict[int, list[str]] = {}
            for row in connection.execute(select(tags).where(tags.c.run == self._run).order_by(tags.c.tag)):
                named.setdefault(row.round, []).append(row.tag)
            rows = connection.execute(select(table).where(table.c.run == self._run).order_by(table.c.round))
            return [_to_version(row, tuple(named.get(row.round, ()))) for row in rows]

    def updates(self) -> dict[int, tuple[str, ...]]:
        """What each version was made of, by its round: the sha256 of the updates that counted, in the order
        of their arrival. Those that gates turned away are left out."""
        sent, rejected, made = tables.updates, tables.rejections, tables.versions
        same = (rejected.c.run == sent.c.run) & (rejected.c.work_round == sent.c.work_round)
        query = (
            select(sent.c.round, sent.c.sha256)
            .join(made, (made.c.run == sent.c.run) & (made.c.round == sent.c.round))
            .outerjoin(rejected, same & (rejected.c.device_id == sent.c.device_id))
            .where(sent.c.run == self._run, rejected.c.code.is_(None))
            .order_by(sent.c.round, sent.c.arrival)
        )
        found: dict[int, list[str]] = {}
        with self._database.read("read the updates of versions") as connection:
            for row in connection.execute(query):
                found.setdefault(row.round, []).append(row.sha256)
        return {number: tuple(names) for number, names in found.items()}

    def has(self, weights: str) -> bool:
        """Whether these are the weights of a version whose file is kept."""
        table = tables.versions
        where = (table.c.run == self._run) & (table.c.weights == weights) & table.c.dropped_at.is_(None)
        with self._database.read("look up a version") as connection:
            return connection.execute(select(table.c.round).where(where).limit(1)).first() is not None

    def is_kept_by_any(self, weights: str) -> bool:
        """Whether any run has a version with these weights whose file is kept."""
        table = tables.versions
        where = (table.c.weights == weights) & table.c.dropped_at.is_(None)
        with self._database.read("look up a version") as connection:
            return connection.execute(select(table.c.round).where(where).limit(1)).first() is not None

    def has_state(self, state: str) -> bool:
        """Whether any run has a kept version with this state."""
        table = tables.versions
        where = (table.c.state == state) & table.c.dropped_at.is_(None)
        with self._database.read("look up a state") as connection:
            return connection.execute(select(table.c.round).where(where).limit(1)).first() is not None

    def drop(self, weights: str, now: float) -> None:
        """Notes that the file of these weights is not kept for this run any more."""
        table = tables.versions
        where = (table.c.run == self._run) & (table.c.weights == weights)
        with self._database.write("drop a version") as connection:
            connection.execute(update(table).where(where).values(dropped_at=now))

    def tag(self, tag: str, number: int) -> None:
        """Names a version, for the first time or another one now."""
        table = tables.tags
        where = (table.c.run == self._run) & (table.c.tag == tag)
        with self._database.write("tag a version") as connection:
            moved = connection.execute(update(table).where(where).values(round=number))
            if not moved.rowcount:
                connection.execute(insert(table).values(run=self._run, tag=tag, round=number))

    def untag(self, tag: str) -> bool:
        """Whether there was such a tag."""
        table = tables.tags
        where = (table.c.run == self._run) & (table.c.tag == tag)
        with self._database.write("remove a tag") as connection:
            return bool(connection.execute(table.delete().where(where)).rowcount)


def _to_version(row: Row[Any], tags: tuple[str, ...]) -> Version:
    return Version(
        round=row.round,
        weights=row.weights,
        parent_round=row.parent_round,
        state=row.state,
        committed_at=row.committed_at,
        holdout_loss=row.holdout_loss,
        holdout_accuracy=row.holdout_accuracy,
        is_kept=row.dropped_at is None,
        tags=tags,
    )
