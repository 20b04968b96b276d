"""The rounds of one run in the database, with their places and updates."""

import json
from dataclasses import asdict, dataclass
from typing import Any, cast

from sqlalchemy import Connection, Row, insert, or_, select, update

from fedfer.aggregator import tables
from fedfer.aggregator.config import RoundSettings
from fedfer.aggregator.database import Database
from fedfer.aggregator.rounds import Phase, Round, Update
from fedfer.aggregator.run_store import RunRow, StopReason, run_columns
from fedfer.model.measures import Measures


@dataclass(frozen=True)
class Result:
    """What a round ended with; measures are None without a holdout set."""

    weights: str
    closed_at: float
    holdout_loss: float | None = None
    holdout_accuracy: float | None = None


def result_of(weights: str, closed_at: float, measures: Measures | None) -> Result:
    """A result with what was measured, if anything was."""
    if measures is None:
        return Result(weights, closed_at)
    return Result(weights, closed_at, measures.loss, measures.accuracy)


class RoundStore:
    """Methods raise StoreError."""

    def __init__(self, database: Database, run: str) -> None:
        self._database, self._run = database, run

    # Writing

    def begin(self, run: RunRow, result: Result, first: Round) -> None:
        """The run, round 0, which is its initial checkpoint, and round 1."""
        row = {
            "run": self._run,
            "number": 0,
            "phase": "done",
            "settings": "{}",
            "opened_at": first.opened_at,
            "deadline_at": first.opened_at,
            **_result_columns(result),
        }
        with self._database.write(f"begin run {run.name}") as connection:
            connection.execute(insert(tables.runs).values(run_columns(run)))
            connection.execute(insert(tables.rounds).values(row))
            self._insert(connection, first)

    def finish(self, number: int, result: Result, following: Round | None, over: StopReason | None) -> None:
        """A round's result, and with it the next round or why the run is over."""
        with self._database.write(f"commit round {number}") as connection:
            self._set(connection, number, phase="done", **_result_columns(result))
            if following is not None:
                self._insert(connection, following)
            if over is not None:
                ended = update(tables.runs).where(tables.runs.c.name == self._run)
                connection.execute(ended.values(state="finished", stop_reason=over))

    def add(self, opened: Round) -> None:
        """Another round of a run that goes on."""
        with self._database.write(f"open round {opened.number}") as connection:
            self._insert(connection, opened)

    def take_place(self, number: int, device_id: str) -> None:
        """Notes that a device holds a place, for the first time or again."""
        table = tables.places
        with self._database.write("assign a place") as connection:
            where = self._in(table, number) & (table.c.device_id == device_id)
            again = connection.execute(update(table).where(where).values(released=False))
            if not again.rowcount:
                row = {"run": self._run, "round": number, "device_id": device_id, "released": False}
                connection.execute(insert(table).values(row))

    def add_update(self, before: Round, accepted: Update, after: Round) -> None:
        """An update and the phase that it leads to."""
        row = {
            "run": self._run,
            "round": after.number,
            "arrival": len(before.updates),
            **asdict(accepted),
        }
        with self._database.write("note an update") as connection:
            connection.execute(insert(tables.updates).values(row))
            self._set(connection, after.number, phase=after.phase)

    def pass_deadline(self, after: Round) -> None:
        """What the deadline made of the round: its phase, its next deadline, places freed."""
        with self._database.write("pass a deadline") as connection:
            self._set(connection, after.number, phase=after.phase, deadline_at=after.deadline_at)
            if not after.assigned:
                freed = update(tables.places).where(self._in(tables.places, after.number))
                connection.execute(freed.values(released=True))

    def add_bytes_down(self, number: int, num_bytes: int) -> None:
        with self._database.write("count bytes") as connection:
            self._set(connection, number, bytes_down=tables.rounds.c.bytes_down + num_bytes)

    # Reading

    def latest(self) -> tuple[Round, str | None] | None:
        """The newest round and its result, None if there is none yet."""
        table = tables.rounds
        newest = select(table).where(table.c.run == self._run).order_by(table.c.number.desc()).limit(1)
        with self._database.read("read rounds") as connection:
            row = connection.execute(newest).first()
            return (self._to_round(connection, row), row.result_weights) if row else None

    def find_update(self, number: int, device_id: str) -> Update | None:
        table = tables.updates
        where = self._in(table, number) & (table.c.device_id == device_id)
        with self._database.read("look up an update") as connection:
            row = connection.execute(select(table).where(where)).first()
        return _to_update(row) if row else None

    def is_version(self, sha256: str) -> bool:
        """Whether a round ended with these weights (round 0 did with the initial ones)."""
        table = tables.rounds
        query = select(table.c.number).where(table.c.run == self._run)
        query = query.where(or_(table.c.result_weights == sha256, table.c.base_weights == sha256))
        with self._database.read("look up a version") as connection:
            return connection.execute(query.limit(1)).first() is not None

    def rows(self, number: int | None = None) -> list[dict[str, Any]]:
        """All rounds, or one, oldest first: the columns of `rounds` (`settings` as read from JSON) and a list
        `updates` of its updates' columns with `device_name`."""
        table = tables.rounds
        wanted = select(table).where(table.c.run == self._run).order_by(table.c.number)
        sent = (
            select(tables.updates, tables.devices.c.name.label("device_name"))
            .join(tables.devices, tables.devices.c.id == tables.updates.c.device_id)
            .where(tables.updates.c.run == self._run)
            .order_by(tables.updates.c.round, tables.updates.c.arrival)
        )
        if number is not None:
            wanted = wanted.where(table.c.number == number)
            sent = sent.where(tables.updates.c.round == number)
        with self._database.read("read rounds") as connection:
            rows = {row.number: _to_dict(row) for row in connection.execute(wanted)}
            for row in connection.execute(sent):
                if row.round in rows:
                    rows[row.round]["updates"].append(dict(row._mapping))
        return list(rows.values())

    def _in(self, table: Any, number: int) -> Any:
        return (table.c.run == self._run) & (table.c.round == number)

    def _insert(self, connection: Connection, opened: Round) -> None:
        names = ("number", "phase", "base_weights", "opened_at", "deadline_at")
        row = {name: getattr(opened, name) for name in names}
        settings = json.dumps(asdict(opened.settings))
        connection.execute(insert(tables.rounds).values(run=self._run, settings=settings, **row))

    def _set(self, connection: Connection, number: int, **columns: object) -> None:
        where = (tables.rounds.c.run == self._run) & (tables.rounds.c.number == number)
        connection.execute(update(tables.rounds).where(where).values(columns))

    def _to_round(self, connection: Connection, row: Row[Any]) -> Round:
        sent = select(tables.updates).where(self._in(tables.updates, row.number))
        updates = [_to_update(found) for found in connection.execute(sent.order_by(tables.updates.c.arrival))]
        accepted = {found.device_id: found for found in updates}
        held = connection.execute(select(tables.places).where(self._in(tables.places, row.number))).all()
        return Round(
            number=row.number,
            base_weights=row.base_weights,
            settings=RoundSettings(**json.loads(row.settings)),
            opened_at=row.opened_at,
            deadline_at=row.deadline_at,
            phase=cast(Phase, row.phase),
            assigned=frozenset(p.device_id for p in held if not p.released and p.device_id not in accepted),
            released=frozenset(p.device_id for p in held if p.released and p.device_id not in accepted),
            updates=accepted,
        )


def _to_dict(row: Row[Any]) -> dict[str, Any]:
    return {**row._mapping, "settings": json.loads(row.settings), "updates": []}


def _result_columns(result: Result) -> dict[str, object]:
    columns = asdict(result)
    return {"result_weights": columns.pop("weights"), **columns}


def _to_update(row: Row[Any]) -> Update:
    names = ("device_id", "sha256", "num_examples", "received_bytes", "loss", "accuracy", "train_sec")
    return Update(**{name: row._mapping[name] for name in names})
