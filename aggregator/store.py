"""What the aggregator must not forget: devices, rounds, places and updates in SQL, their bytes in `Blobs`.

Every method that writes is one transaction and durable when it returns. Methods may be called from any
thread. Whatever the database or the disk raises becomes StoreError with one line.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, cast

from sqlalchemy import Connection, Engine, Row, create_engine, event, func, insert, or_, select, update
from sqlalchemy.exc import SQLAlchemyError

from fedfer.aggregator import tables
from fedfer.aggregator.blobs import Blobs
from fedfer.aggregator.config import RoundSettings
from fedfer.aggregator.rounds import Phase, Round, Update
from fedfer.model.errors import StoreError
from fedfer.model.measures import Measures

BUSY_TIMEOUT_MS = 10_000


@dataclass(frozen=True)
class Device:
    id: str
    name: str


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


class Store:
    """State of one aggregator."""

    def __init__(self, blobs: Blobs, database_url: str | None = None) -> None:
        """Opens or creates the database. Raises StoreError."""
        self.blobs = blobs
        self._writer = threading.Lock()  # SQLite has one writer; waiting here is fair, its own waiting is not
        url = database_url or f"sqlite:///{blobs.root / 'fedfer.db'}"
        with _store_errors("open the database"):
            self._engine = _engine(url)
            tables.metadata.create_all(self._engine)

    def close(self) -> None:
        self._engine.dispose()
        self.blobs.close()

    # Identity

    def bind(self, model: str, contract: str) -> None:
        """Ties a new store to a model; refuses one that is tied to another. Raises StoreError."""
        wanted = {"schema": tables.SCHEMA_VERSION, "model": model, "contract": contract}
        with self._write("note the model") as connection:
            rows = connection.execute(select(tables.meta.c.key, tables.meta.c.value))
            stored: dict[str, str] = {row.key: row.value for row in rows}
            if not stored:
                pairs = [{"key": key, "value": value} for key, value in wanted.items()]
                connection.execute(insert(tables.meta), pairs)
                return
        for key, value in wanted.items():
            if stored.get(key) != value:
                raise StoreError(
                    f"{self.blobs.root} holds {key} {stored.get(key)}; expected {value}: "
                    "serve the model it was made for, or take another directory"
                )

    # Devices

    def add_device(self, device: Device, token_sha256: str, now: float, max_devices: int) -> bool:
        """Whether there was room for it."""
        with self._write("enrol a device") as connection:
            count = connection.execute(select(func.count()).select_from(tables.devices)).scalar_one()
            if count >= max_devices:
                return False
            row = {**asdict(device), "token_sha256": token_sha256, "enrolled_at": now}
            connection.execute(insert(tables.devices).values(row))
            return True

    def device_by_token(self, token_sha256: str) -> tuple[Device, str] | None:
        """The device and the stored sha256 of its token."""
        table = tables.devices
        with self._read("look up a device") as connection:
            row = connection.execute(select(table).where(table.c.token_sha256 == token_sha256)).first()
        return (Device(row.id, row.name), row.token_sha256) if row else None

    def num_devices(self) -> int:
        with self._read("count devices") as connection:
            return connection.execute(select(func.count()).select_from(tables.devices)).scalar_one()

    # Writing rounds

    def begin(self, result: Result, first: Round) -> None:
        """Round 0, which is the initial checkpoint, and round 1."""
        row = {
            "number": 0,
            "phase": "done",
            **dict.fromkeys(("num_clients", "min_clients", "deadline_sec", "local_epochs", "batch_size"), 0),
            "opened_at": first.opened_at,
            "deadline_at": first.opened_at,
            **_result_columns(result),
        }
        with self._write("begin round 1") as connection:
            connection.execute(insert(tables.rounds).values(row))
            connection.execute(insert(tables.rounds).values(_round_columns(first)))

    def finish(self, number: int, result: Result, following: Round | None) -> None:
        """A round's result and the next round, together."""
        with self._write(f"commit round {number}") as connection:
            _set_round(connection, number, phase="done", **_result_columns(result))
            if following is not None:
                connection.execute(insert(tables.rounds).values(_round_columns(following)))

    def add_round(self, opened: Round) -> None:
        with self._write(f"open round {opened.number}") as connection:
            connection.execute(insert(tables.rounds).values(_round_columns(opened)))

    def take_place(self, number: int, device_id: str) -> None:
        """Notes that a device holds a place, for the first time or again."""
        with self._write("assign a place") as connection:
            where = (tables.places.c.round == number) & (tables.places.c.device_id == device_id)
            again = connection.execute(update(tables.places).where(where).values(released=False))
            if not again.rowcount:
                row = {"round": number, "device_id": device_id, "released": False}
                connection.execute(insert(tables.places).values(row))

    def add_update(self, before: Round, accepted: Update, after: Round) -> None:
        """An update and the phase that it leads to."""
        row = {"round": after.number, "arrival": len(before.updates), **asdict(accepted)}
        with self._write("note an update") as connection:
            connection.execute(insert(tables.updates).values(row))
            _set_round(connection, after.number, phase=after.phase)

    def pass_deadline(self, after: Round) -> None:
        """What the deadline made of the round: its phase, its next deadline, places freed."""
        with self._write("pass a deadline") as connection:
            _set_round(connection, after.number, phase=after.phase, deadline_at=after.deadline_at)
            if not after.assigned:
                where = tables.places.c.round == after.number
                connection.execute(update(tables.places).where(where).values(released=True))

    def add_bytes_down(self, number: int, num_bytes: int) -> None:
        with self._write("count bytes") as connection:
            table = tables.rounds
            total = table.c.bytes_down + num_bytes
            connection.execute(update(table).where(table.c.number == number).values(bytes_down=total))

    # Reading rounds

    def latest_round(self) -> tuple[Round, str | None] | None:
        """The newest round and its result, None if there is none yet."""
        with self._read("read rounds") as connection:
            table = tables.rounds
            row = connection.execute(select(table).order_by(table.c.number.desc()).limit(1)).first()
            return (_to_round(connection, row), row.result_weights) if row else None

    def find_update(self, number: int, device_id: str) -> Update | None:
        where = (tables.updates.c.round == number) & (tables.updates.c.device_id == device_id)
        with self._read("look up an update") as connection:
            row = connection.execute(select(tables.updates).where(where)).first()
        return _to_update(row) if row else None

    def is_version(self, sha256: str) -> bool:
        """Whether a round ended with these weights (round 0 did with the initial ones)."""
        query = select(tables.rounds.c.number).where(
            or_(tables.rounds.c.result_weights == sha256, tables.rounds.c.base_weights == sha256)
        )
        with self._read("look up a version") as connection:
            return connection.execute(query.limit(1)).first() is not None

    def round_rows(self, number: int | None = None) -> list[dict[str, Any]]:
        """All rounds, or one, oldest first: the columns of `rounds` and a list `updates` of its updates'
        columns with `device_name`."""
        wanted = select(tables.rounds).order_by(tables.rounds.c.number)
        sent = (
            select(tables.updates, tables.devices.c.name.label("device_name"))
            .join(tables.devices, tables.devices.c.id == tables.updates.c.device_id)
            .order_by(tables.updates.c.round, tables.updates.c.arrival)
        )
        if number is not None:
            wanted = wanted.where(tables.rounds.c.number == number)
            sent = sent.where(tables.updates.c.round == number)
        with self._read("read rounds") as connection:
            rows = {row.number: {**row._mapping, "updates": []} for row in connection.execute(wanted)}
            for row in connection.execute(sent):
                if row.round in rows:
                    rows[row.round]["updates"].append(dict(row._mapping))
        return list(rows.values())

    @contextmanager
    def _write(self, doing: str) -> Iterator[Connection]:
        with self._writer, _store_errors(doing), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _read(self, doing: str) -> Iterator[Connection]:
        with _store_errors(doing), self._engine.connect() as connection:
            yield connection


@contextmanager
def _store_errors(doing: str) -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, OSError) as error:
        cause = getattr(error, "orig", None) or error
        raise StoreError(f"cannot {doing}: {str(cause).splitlines()[0]}") from error


def _engine(url: str) -> Engine:
    engine = create_engine(url, pool_size=16, max_overflow=48)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _set_pragmas)
        with engine.connect() as connection:
            health = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
        if health != "ok":
            raise StoreError(f"the database {engine.url.database} is damaged: {health}; restore a copy of it")
    return engine


def _set_pragmas(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    cursor.close()


def _set_round(connection: Connection, number: int, **columns: object) -> None:
    connection.execute(update(tables.rounds).where(tables.rounds.c.number == number).values(columns))


def _result_columns(result: Result) -> dict[str, object]:
    columns = asdict(result)
    return {"result_weights": columns.pop("weights"), **columns}


def _round_columns(opened: Round) -> dict[str, object]:
    settings = {**asdict(opened.settings), "min_clients": opened.settings.required_clients}
    names = ("number", "phase", "base_weights", "opened_at", "deadline_at")
    return {**settings, **{name: getattr(opened, name) for name in names}}


def _to_round(connection: Connection, row: Row[Any]) -> Round:
    settings = RoundSettings(
        row.num_clients,
        row.min_clients,
        row.deadline_sec,
        row.local_epochs,
        row.batch_size,
        row.learning_rate,
    )
    sent = select(tables.updates).where(tables.updates.c.round == row.number)
    updates = [_to_update(found) for found in connection.execute(sent.order_by(tables.updates.c.arrival))]
    accepted = {found.device_id: found for found in updates}
    held = connection.execute(select(tables.places).where(tables.places.c.round == row.number)).all()
    return Round(
        number=row.number,
        base_weights=row.base_weights,
        settings=settings,
        opened_at=row.opened_at,
        deadline_at=row.deadline_at,
        phase=cast(Phase, row.phase),
        assigned=frozenset(p.device_id for p in held if not p.released and p.device_id not in accepted),
        released=frozenset(p.device_id for p in held if p.released and p.device_id not in accepted),
        updates=accepted,
    )


def _to_update(row: Row[Any]) -> Update:
    names = ("device_id", "sha256", "num_examples", "received_bytes", "loss", "accuracy", "train_sec")
    return Update(**{name: row._mapping[name] for name in names})
