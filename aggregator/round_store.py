"""The rounds of one run in the database, with their places, updates and rejections."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any, cast

from sqlalchemy import Connection, Insert, Row, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from fedfer.aggregator import tables
from fedfer.aggregator.config import RoundSettings
from fedfer.aggregator.database import Database
from fedfer.aggregator.gates import Rejection
from fedfer.aggregator.results import End, Result
from fedfer.aggregator.rounds import Base, Phase, Place, Round, Update, busy_devices
from fedfer.aggregator.run_store import RunRow, end_columns, run_columns
from fedfer.aggregator.version_store import insert_version

UPDATE_COLUMNS = (
    "device_id",
    "work_round",
    "sha256",
    "num_examples",
    "received_bytes",
    "loss",
    "accuracy",
    "train_sec",
)


class RoundStore:
    """Methods raise StoreError."""

    def __init__(self, database: Database, run: str) -> None:
        self._database, self._run = database, run

    # Writing

    def begin(self, run: RunRow, result: Result, first: Round) -> None:
        """The run, round 0, which is its initial version, and round 1."""
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
            insert_version(connection, self._run, 0, None, result)
            self._insert(connection, first)

    def finish(self, round_: Round, result: Result, following: Round | None, end: End | None) -> None:
        """A round's result with the version that it is, and the next round or why the run is over."""
        with self._database.write(f"commit round {round_.number}") as connection:
            self._set(connection, round_.number, phase="done", **_result_columns(result))
            for (device_id, work_round), rejection in result.rejections.items():
                row = {"device_id": device_id, "work_round": work_round, **asdict(rejection)}
                key = {"run": self._run, "round": round_.number}
                connection.execute(insert(tables.rejections).values(**key, **row))
            if result.outcome == "committed":
                insert_version(connection, self._run, round_.number, round_.base.round, result)
            if following is not None:
                self._insert(connection, following)
            if end is not None:
                ended = update(tables.runs).where(tables.runs.c.name == self._run)
                connection.execute(ended.values(end_columns(end)))

    def begin_again(self, round_: Round, given_up: Result | None, following: Round) -> None:
        """Gives the open round up, if there is one, and opens another; a run that was over goes on."""
        with self._database.write(f"open round {following.number}") as connection:
            if given_up is not None:
                self._set(connection, round_.number, phase="done", **_result_columns(given_up))
            self._insert(connection, following)
            again = update(tables.runs).where(tables.runs.c.name == self._run)
            connection.execute(again.values(end_columns(None)))

    def give_out(self, selected: Round) -> None:
        """The places of a round, which are now reserved, and its settings as they came out."""
        with self._database.write("give out places") as connection:
            self._set(
                connection,
                selected.number,
                settings=json.dumps(asdict(selected.settings)),
                selected_at=selected.selected_at,
                deadline_at=selected.deadline_at,
            )
            rows = [self._place(selected.number, id_, "reserved") for id_ in sorted(selected.reserved)]
            if rows:
                connection.execute(insert(tables.places), rows)

    def take_places(self, number: int, device_ids: Sequence[str]) -> None:
        """Notes that devices hold a place, for the first time or again."""
        rows = [self._place(number, id_, "assigned") for id_ in device_ids]
        with self._database.write("assign places") as connection:
            connection.execute(_insert_or_set_place(connection.dialect.name), rows)

    def add_update(self, before: Round, accepted: Update, after: Round) -> None:
        """An update and the phase that it leads to."""
        key = {"run": self._run, "round": after.number, "arrival": len(before.updates)}
        with self._database.write("note an update") as connection:
            connection.execute(insert(tables.updates), {**key, **asdict(accepted)})
            if after.phase != before.phase:  # devices that ask for work wait meanwhile
                self._set(connection, after.number, phase=after.phase)

    def pass_deadline(self, after: Round) -> None:
        """What the deadline made of the round: its phase, its next deadline, places freed."""
        table = tables.places
        with self._database.write("pass a deadline") as connection:
            self._set(connection, after.number, phase=after.phase, deadline_at=after.deadline_at)
            if not after.assigned:
                held = (table.c.run == self._run) & (table.c.state == "assigned")
                is_renewed = after.phase == "open"  # which also frees what is held of earlier buffers
                recent = self._recent(table.c.round, after.number, after.settings)
                held &= recent if is_renewed else table.c.round == after.number
                connection.execute(update(table).where(held).values(state="released"))
                kept = self._in(table, after.number) & (table.c.state == "reserved")
                connection.execute(table.delete().where(kept))

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

    def find_update(self, work_round: int, device_id: str) -> Update | None:
        """What the device sent for the work that it was given in that round."""
        table = tables.updates
        where = (table.c.run == self._run) & (table.c.work_round == work_round)
        with self._database.read("look up an update") as connection:
            row = connection.execute(select(table).where(where & (table.c.device_id == device_id))).first()
        return _to_update(row) if row else None

    def find_place(self, number: int, device_id: str) -> Place | None:
        """The work that the device was given in that round."""
        places, rounds = tables.places, tables.rounds
        query = (
            select(rounds.c.base_weights)
            .join(places, (places.c.run == rounds.c.run) & (places.c.round == rounds.c.number))
            .where(self._in(places, number) & (places.c.device_id == device_id))
            .where(places.c.state != "reserved")
        )
        with self._database.read("look up a place") as connection:
            base = connection.execute(query).scalar()
        return Place(device_id, number, base) if base else None

    def busy(self, number: int, settings: RoundSettings) -> dict[str, int]:
        """Devices that have work of rounds before this one, as `Round.busy`."""
        if not settings.is_async or settings.max_training is None:
            return {}
        with self._database.read("look up who has work") as connection:
            return self._busy(connection, number, settings)

    def _busy(self, connection: Connection, number: int, settings: RoundSettings) -> dict[str, int]:
        places, sent = tables.places, tables.updates
        held = select(places.c.device_id, places.c.round).where(places.c.run == self._run)
        held = held.where(places.c.state == "assigned", self._recent(places.c.round, number, settings))
        answered = select(sent.c.device_id, sent.c.work_round).where(sent.c.run == self._run)
        answered = answered.where(self._recent(sent.c.work_round, number, settings))
        given = [(row.device_id, row.round) for row in connection.execute(held) if row.round < number]
        reported = {(row.device_id, row.work_round) for row in connection.execute(answered)}
        return busy_devices(given, reported)

    def _recent(self, column: Any, number: int, settings: RoundSettings) -> Any:
        """Whether a round's work may still count, or may be had, in the one with this number."""
        return column.between(number - settings.max_staleness * settings.is_async, number)

    def base_of(self, number: int) -> str | None:
        """The weights that a round started from."""
        table = tables.rounds
        query = select(table.c.base_weights).where(table.c.run == self._run, table.c.number == number)
        with self._database.read("look up a round") as connection:
            return connection.execute(query).scalar()

    def last_durations_sec(self, count: int) -> list[float]:
        """Seconds that the last rounds took, from places given out to closed."""
        table = tables.rounds
        took = (table.c.closed_at - table.c.selected_at).label("took")
        query = select(took).where(table.c.run == self._run, took.is_not(None))
        with self._database.read("read rounds") as connection:
            rows = connection.execute(query.order_by(table.c.number.desc()).limit(count))
            return [float(row.took) for row in rows]

    def num_rejected(self) -> int:
        """Updates that gates turned away, in all rounds."""
        table = tables.rejections
        query = select(func.count()).select_from(table).where(table.c.run == self._run)
        with self._database.read("count rejections") as connection:
            return connection.execute(query).scalar_one()

    def last_rejections(self, number: int) -> dict[str, tuple[int, Rejection]]:
        """Devices whose last update up to this round was turned away when its round closed: which round, and
        why."""
        why, sent, of = tables.rejections, tables.updates, tables.rounds
        was_closed = (of.c.run == sent.c.run) & (of.c.number == sent.c.round) & (of.c.outcome != "abandoned")
        newest = (
            select(sent.c.device_id, func.max(sent.c.round).label("round"))
            .join(of, was_closed)
            .where(sent.c.run == self._run, sent.c.round <= number)
            .group_by(sent.c.device_id)
            .subquery()
        )
        in_it = (newest.c.device_id == sent.c.device_id) & (newest.c.round == sent.c.round)
        of_it = (why.c.run == sent.c.run) & (why.c.work_round == sent.c.work_round)
        query = (
            select(sent.c.device_id, sent.c.round, why.c.code, why.c.reason)
            .join(newest, in_it)
            .outerjoin(why, of_it & (why.c.device_id == sent.c.device_id))
            .where(sent.c.run == self._run)
            .order_by(sent.c.arrival)  # of several in one buffer the last
        )
        with self._database.read("read rejections") as connection:
            last = {row.device_id: row for row in connection.execute(query)}
        rejected = (row for row in last.values() if row.code is not None)
        return {row.device_id: (row.round, Rejection(row.code, row.reason)) for row in rejected}

    def num_rolled_back(self, round_: Round) -> int:
        """How many rounds in a row before this one, from the same version, had a candidate that was not
        committed; those without a candidate are passed over."""
        table, count = tables.rounds, 0
        query = select(table.c.outcome).where(table.c.run == self._run, table.c.number < round_.number)
        query = query.where(table.c.number > round_.base.round, table.c.base_round == round_.base.round)
        with self._database.read("read rounds") as connection:
            for outcome in connection.execute(query.order_by(table.c.number.desc())).scalars():
                if outcome == "rolled_back":
                    count += 1
                elif outcome != "no_updates":
                    break
        return count

    def rows(self, number: int | None = None) -> list[dict[str, Any]]:
        """All rounds, or one, oldest first: the columns of `rounds` (`settings` as read from JSON) and a list
        `updates` of its updates' columns with `device_name`, `code` and `reason` (None if it counted)."""
        table = tables.rounds
        wanted = select(table).where(table.c.run == self._run).order_by(table.c.number)
        sent = _updates_with_names().where(tables.updates.c.run == self._run)
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

    def _place(self, number: int, device_id: str, state: str) -> dict[str, object]:
        return {"run": self._run, "round": number, "device_id": device_id, "state": state}

    def _insert(self, connection: Connection, opened: Round) -> None:
        row = {
            "number": opened.number,
            "phase": opened.phase,
            "base_weights": opened.base.weights,
            "base_round": opened.base.round,
            "base_state": opened.base.state,
            "settings": json.dumps(asdict(opened.settings)),
            "opened_at": opened.opened_at,
            "deadline_at": opened.deadline_at,
        }
        connection.execute(insert(tables.rounds).values(run=self._run, **row))

    def _set(self, connection: Connection, number: int, **columns: object) -> None:
        where = (tables.rounds.c.run == self._run) & (tables.rounds.c.number == number)
        connection.execute(update(tables.rounds).where(where).values(columns))

    def _to_round(self, connection: Connection, row: Row[Any]) -> Round:
        sent = select(tables.updates).where(self._in(tables.updates, row.number))
        updates = [_to_update(found) for found in connection.execute(sent.order_by(tables.updates.c.arrival))]
        accepted = {found.key: found for found in updates}
        reported = {found.device_id for found in updates if found.work_round == row.number}
        held = connection.execute(select(tables.places).where(self._in(tables.places, row.number))).all()
        by_state = {
            state: frozenset(_ids(held, state) - reported) for state in ("reserved", "assigned", "released")
        }
        settings, here = RoundSettings(**json.loads(row.settings)), {place.device_id for place in held}
        limited = settings.is_async and settings.max_training is not None
        busy = self._busy(connection, row.number, settings) if limited else {}
        return Round(
            number=row.number,
            base=Base(row.base_weights or "", row.base_round, row.base_state),
            settings=settings,
            opened_at=row.opened_at,
            deadline_at=row.deadline_at,
            phase=cast(Phase, row.phase),
            selected_at=row.selected_at,
            updates=accepted,
            busy={id_: of for id_, of in busy.items() if id_ not in here},
            **by_state,
        )


@cache  # building it takes longer than executing it, and devices wait
def _insert_or_set_place(dialect: str) -> Insert:
    insert_or = postgresql.insert if dialect == "postgresql" else sqlite.insert
    added = insert_or(tables.places)
    keys = tables.places.primary_key.columns.keys()
    return added.on_conflict_do_update(index_elements=keys, set_={"state": added.excluded.state})


def _ids(places: Iterable[Row[Any]], state: str) -> set[str]:
    return {place.device_id for place in places if place.state == state}


def _updates_with_names() -> Any:
    updates, turned_away = tables.updates, tables.rejections
    same = (turned_away.c.run == updates.c.run) & (turned_away.c.work_round == updates.c.work_round)
    return (
        select(updates, tables.devices.c.name.label("device_name"), turned_away.c.code, turned_away.c.reason)
        .join(tables.devices, tables.devices.c.id == updates.c.device_id)
        .outerjoin(turned_away, same & (turned_away.c.device_id == updates.c.device_id))
        .order_by(updates.c.round, updates.c.arrival)
    )


def _to_dict(row: Row[Any]) -> dict[str, Any]:
    return {**row._mapping, "settings": json.loads(row.settings), "updates": []}


def _result_columns(result: Result) -> dict[str, object]:
    return {
        "outcome": result.outcome,
        "result_weights": result.weights,
        "candidate_weights": result.candidate,
        "closed_at": result.closed_at,
        "holdout_loss": result.holdout_loss,
        "holdout_accuracy": result.holdout_accuracy,
        "reason": result.reason,
    }


def _to_update(row: Row[Any]) -> Update:
    return Update(**{name: row._mapping[name] for name in UPDATE_COLUMNS})
