"""Models and runs in the database."""

import json
from dataclasses import dataclass
from typing import Any, Literal, cast

from sqlalchemy import Row, insert, select, update

from fedfer.aggregator import tables
from fedfer.aggregator.database import Database
from fedfer.aggregator.results import End, StopReason

RunState = Literal["running", "paused", "stopped", "finished"]


@dataclass(frozen=True)
class RunRow:
    """A run as it is stored. `settings`: what `fedfer.aggregator.run_files` reads; `end` None while it is
    running or paused."""

    name: str
    model: str
    settings: dict[str, Any]
    state: RunState
    end: End | None
    created_at: float


class RunStore:
    """Methods raise StoreError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_model(self, sha256: str, contract: str, now: float) -> None:
        """Notes a model whose file is in its place; again is no harm."""
        table = tables.models
        with self._database.write("note a model") as connection:
            if not connection.execute(select(table.c.sha256).where(table.c.sha256 == sha256)).first():
                connection.execute(insert(table).values(sha256=sha256, contract=contract, added_at=now))

    def has_model(self, sha256: str) -> bool:
        with self._database.read("look up a model") as connection:
            found = select(tables.models.c.sha256).where(tables.models.c.sha256 == sha256)
            return connection.execute(found).first() is not None

    def rows(self) -> list[RunRow]:
        """All runs, oldest first."""
        with self._database.read("read runs") as connection:
            query = select(tables.runs).order_by(tables.runs.c.created_at, tables.runs.c.name)
            return [_to_row(row) for row in connection.execute(query)]

    def find(self, name: str) -> RunRow | None:
        with self._database.read("read a run") as connection:
            row = connection.execute(select(tables.runs).where(tables.runs.c.name == name)).first()
        return _to_row(row) if row else None

    def set_settings(self, name: str, settings: dict[str, Any]) -> None:
        self._set(name, settings=json.dumps(settings))

    def set_state(self, name: str, state: RunState, end: End | None = None) -> None:
        self._set(name, **{**end_columns(end), "state": state})

    def _set(self, name: str, **columns: object) -> None:
        with self._database.write(f"change run {name}") as connection:
            connection.execute(update(tables.runs).where(tables.runs.c.name == name).values(columns))


def run_columns(run: RunRow) -> dict[str, Any]:
    """The row that `runs` has for it."""
    row = {name: getattr(run, name) for name in ("name", "model", "created_at")}
    return {**row, **end_columns(run.end), "state": run.state, "settings": json.dumps(run.settings)}


def end_columns(end: End | None) -> dict[str, object]:
    """What `runs` says of a run that has finished, or goes on (None)."""
    if end is None:
        return {"state": "running", "stop_reason": None, "stop_text": None}
    return {"state": "finished", "stop_reason": end.reason, "stop_text": end.text}


def _to_row(row: Row[Any]) -> RunRow:
    return RunRow(
        name=row.name,
        model=row.model,
        settings=json.loads(row.settings),
        state=cast(RunState, row.state),
        end=End(cast(StopReason, row.stop_reason), row.stop_text or "") if row.stop_reason else None,
        created_at=row.created_at,
    )
