"""One SQL database: connections, transactions, and its failures as StoreError.

A transaction that `write` opened is durable when its block is left. May be used from any thread.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from fedfer.aggregator.config import DATABASE_URL
from fedfer.aggregator.schema import bring_up_to_date
from fedfer.model.errors import StoreError, UsageError

BUSY_TIMEOUT_MS = 10_000
SERVER_KEY = 0x66656465  # "fede": PostgreSQL's advisory lock of the one server that uses the database
HOLD_PATIENCE_SEC = 5.0


class Database:
    """The tables of `fedfer.aggregator.tables` behind one URL."""

    def __init__(self, url: str) -> None:
        """Opens or creates it. Raises StoreError."""
        self._writer = threading.Lock()  # SQLite has one writer; waiting here is fair, its own waiting is not
        with store_errors("open the database"):
            self._engine = _engine(url)
            try:
                bring_up_to_date(self._engine)
                self._hold = _hold(self._engine)
            except BaseException:
                self._engine.dispose()
                raise

    def close(self) -> None:
        if self._hold is not None:
            self._hold.close()
        self._engine.dispose()

    @contextmanager
    def write(self, doing: str) -> Iterator[Connection]:
        """A transaction; `doing` completes "cannot ...". Raises StoreError."""
        with self._writer, store_errors(doing):
            self._keep_hold()
            with self._engine.begin() as connection:
                yield connection

    @contextmanager
    def read(self, doing: str) -> Iterator[Connection]:
        """Raises StoreError."""
        with store_errors(doing), self._engine.connect() as connection:
            yield connection

    def probe(self) -> None:
        """Whether it can be written, by a write that changes nothing. Raises StoreError."""
        with self.write("write to the database") as connection:
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = version_num")

    def _keep_hold(self) -> None:
        """After a restart of PostgreSQL, which ends connections and their locks: takes the database again.
        Raises StoreError if another server was quicker."""
        if self._hold is not None:
            try:
                self._hold.exec_driver_sql("SELECT 1")
                return
            except SQLAlchemyError:
                lost, self._hold = self._hold, None
                with suppress(SQLAlchemyError):
                    lost.invalidate()
                lost.close()
        self._hold = _hold(self._engine)


@contextmanager
def store_errors(doing: str) -> Iterator[None]:
    """Whatever the database or the disk raises becomes StoreError with one line."""
    try:
        yield
    except (SQLAlchemyError, OSError) as error:
        cause = getattr(error, "orig", None) or error
        raise StoreError(f"cannot {doing}: {str(cause).splitlines()[0]}") from error


def _engine(url: str) -> Engine:
    try:
        # Checked before use: a connection that a restart of PostgreSQL has closed is replaced. SQLite's are
        # closed by nobody, and a check is one more turn at the interpreter, among those that take in uploads.
        is_checked = not url.startswith("sqlite")
        engine = create_engine(url, pool_size=16, max_overflow=48, pool_pre_ping=is_checked)
    except (ArgumentError, ImportError) as error:
        raise UsageError(f"database-url cannot be used ({error}); expected {DATABASE_URL}") from None
    if engine.dialect.name == "postgresql":
        from fedfer.aggregator.postgres import use_patient_connections  # of an extra

        use_patient_connections(engine)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _set_pragmas)
        with engine.connect() as connection:
            health = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
        if health != "ok":
            raise StoreError(f"the database {engine.url.database} is damaged: {health}; restore a copy of it")
    return engine


def _hold(engine: Engine) -> Connection | None:
    """A connection that has PostgreSQL's database to itself for as long as it is open; SQLite's lies in a
    data directory that is locked. Raises StoreError if another server has it."""
    if engine.dialect.name == "sqlite":
        return None
    connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    deadline = time.monotonic() + HOLD_PATIENCE_SEC
    while not connection.exec_driver_sql(f"SELECT pg_try_advisory_lock({SERVER_KEY})").scalar_one():
        if time.monotonic() > deadline:
            connection.close()
            raise StoreError("another server is using the database; stop it or take another database")
        time.sleep(0.1)  # a server that was killed may hold it until PostgreSQL has noticed
    return connection


def _set_pragmas(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    cursor.close()
