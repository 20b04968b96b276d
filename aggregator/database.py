"""One SQL database: connections, transactions, and its failures as StoreError.

A transaction that `write` opened is durable when its block is left. May be used from any thread.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, insert, select
from sqlalchemy.exc import SQLAlchemyError

from fedfer.aggregator import tables
from fedfer.model.errors import StoreError

BUSY_TIMEOUT_MS = 10_000


class Database:
    """The tables of `fedfer.aggregator.tables` behind one URL."""

    def __init__(self, url: str) -> None:
        """Opens or creates it. Raises StoreError."""
        self._writer = threading.Lock()  # SQLite has one writer; waiting here is fair, its own waiting is not
        with store_errors("open the database"):
            self._engine = _engine(url)
            tables.metadata.create_all(self._engine)
        self._check_schema()

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def write(self, doing: str) -> Iterator[Connection]:
        """A transaction; `doing` completes "cannot ...". Raises StoreError."""
        with self._writer, store_errors(doing), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def read(self, doing: str) -> Iterator[Connection]:
        """Raises StoreError."""
        with store_errors(doing), self._engine.connect() as connection:
            yield connection

    def _check_schema(self) -> None:
        table = tables.meta
        with self.write("note the schema") as connection:
            stored = connection.execute(select(table.c.value).where(table.c.key == "schema")).scalar()
            if stored is None:
                connection.execute(insert(table).values(key="schema", value=tables.SCHEMA_VERSION))
            elif stored != tables.SCHEMA_VERSION:
                raise StoreError(
                    f"the database has schema {stored}; expected {tables.SCHEMA_VERSION}: "
                    "use the fedfer that made it, or another data directory"
                )


@contextmanager
def store_errors(doing: str) -> Iterator[None]:
    """Whatever the database or the disk raises becomes StoreError with one line."""
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
