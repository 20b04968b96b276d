"""Uploads of a run that were refused when they came: by the round that was the newest then, device and code.

They are gathered in memory and written together, so that no device can keep the database busy by being
refused: one transaction in WRITE_SEC, and one before somebody reads. What `kill -9` takes are the last ones;
no decision hangs on them. Of a round a bounded number of rows is kept, so that none can fill the disk either.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Insert, func, select
from sqlalchemy.dialects import postgresql, sqlite

from fedfer.aggregator import tables
from fedfer.aggregator.database import Database
from fedfer.aggregator.gates import Rejection
from fedfer.model.errors import StoreError

WRITE_SEC = 5.0
MAX_KINDS = 1000  # rows of a round; what else is refused is in the metrics and in the log
MAX_REASON_CHARS = 200
Key = tuple[int, str, str]


@dataclass(frozen=True)
class Note:
    """The last reason, how often, and when last, in seconds since the epoch."""

    reason: str
    times: int
    last_at: float


class RefusalStore:
    """Of one run. Methods raise StoreError, and may be called from any thread."""

    def __init__(self, database: Database, run: str, timer: Callable[[], float] = time.monotonic) -> None:
        self._database, self._run, self._timer = database, run, timer
        self._noting = threading.Lock()
        self._notes: dict[Key, Note] = {}
        self._written_at = -WRITE_SEC  # by the timer
        self._kinds: tuple[int, set[Key]] = 0, set()  # of the newest round, those that have a row or will

    def note(self, number: int, device_id: str, why: Rejection, now: float) -> None:
        """That an upload of a device was refused while this round was the newest."""
        key = number, device_id, why.code
        known = self._known(number)
        with self._noting:
            if key not in known and len(known) >= MAX_KINDS:
                return
            known.add(key)
            before = self._notes.get(key)
            times = 1 + (before.times if before else 0)
            self._notes[key] = Note(why.reason[:MAX_REASON_CHARS], times, now)
        self.write_if_due()

    def write_if_due(self) -> None:
        """Writes what was gathered, if that was not done in the last WRITE_SEC."""
        if self._timer() - self._written_at >= WRITE_SEC:
            self.write()

    def write(self) -> None:
        """Writes what was gathered."""
        with self._noting:
            notes, self._notes, self._written_at = self._notes, {}, self._timer()
        if not notes:
            return
        try:
            with self._database.write("note refusals") as connection:
                rows = [
                    {"run": self._run, "round": number, "device_id": device_id, "code": code, **vars(note)}
                    for (number, device_id, code), note in sorted(notes.items())
                ]
                connection.execute(_insert_or_count(connection.dialect.name), rows)
        except StoreError:
            with self._noting:
                for key, note in self._notes.items():
                    times = note.times + (notes[key].times if key in notes else 0)
                    notes[key] = Note(note.reason, times, note.last_at)
                self._notes = notes
            raise

    def rows(self, number: int) -> list[dict[str, Any]]:
        """The columns of `refusals` of a round with `device_name`, the last one last."""
        self.write()
        table, devices = tables.refusals, tables.devices
        query = select(table, devices.c.name.label("device_name")).join(devices)
        query = query.where(table.c.run == self._run, table.c.round == number).order_by(table.c.last_at)
        with self._database.read("read refusals") as connection:
            return [dict(row._mapping) for row in connection.execute(query)]

    def counts(self) -> dict[int, int]:
        """How many uploads were refused, by round; rounds without any are left out."""
        self.write()
        table = tables.refusals
        query = select(table.c.round, func.sum(table.c.times)).where(table.c.run == self._run)
        with self._database.read("count refusals") as connection:
            return {number: int(times) for number, times in connection.execute(query.group_by(table.c.round))}

    def _known(self, number: int) -> set[Key]:
        """Of the round, those that have a row or will."""
        of, known = self._kinds
        if of == number:
            return known
        table = tables.refusals
        query = select(table.c.device_id, table.c.code)
        query = query.where(table.c.run == self._run, table.c.round == number)
        with self._database.read("read refusals") as connection:
            found = {(number, device_id, code) for device_id, code in connection.execute(query)}
        with self._noting:
            if self._kinds[0] != number:
                self._kinds = number, found
            return self._kinds[1]


@cache
def _insert_or_count(dialect: str) -> Insert:
    table = tables.refusals
    added = postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
    newest = {name: added.excluded[name] for name in ("reason", "last_at")}
    keys = table.primary_key.columns.keys()
    times = table.c.times + added.excluded.times
    return added.on_conflict_do_update(index_elements=keys, set_={**newest, "times": times})
