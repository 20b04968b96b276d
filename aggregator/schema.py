"""Bringing a database's tables to this version's schema: alembic's migrations, run at start under a lock.

The migrations are in migrations/versions/; `alembic_version` in the database says which was the last. A
database of a newer fedfer, or with tables that no migration made, is refused and left as it is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, inspect

from fedfer.model.errors import StoreError

MIGRATIONS = Path(__file__).parent / "migrations"
LOCK_KEY = 0x66656466  # "fedf": PostgreSQL's advisory lock of whoever migrates


def bring_up_to_date(engine: Engine) -> str:
    """Runs the migrations that are missing, all in one transaction; returns the schema's revision.

    Raises StoreError for a schema that is not this version's to change, SQLAlchemyError.
    """
    scripts = ScriptDirectory.from_config(_config())
    newest = scripts.get_current_head()
    assert newest is not None
    known = {script.revision for script in scripts.walk_revisions()}
    with _locked(engine) as connection:
        current = MigrationContext.configure(connection).get_current_revision()
        if current is None and inspect(connection).get_table_names():
            raise StoreError(
                "the database has tables but no schema version: it is not fedfer's, or of a version before "
                "migrations; give another database or data directory"
            )
        if current is not None and current not in known:
            raise StoreError(
                f"the database has schema {current}, of a newer fedfer; this one knows up to {newest}: "
                "start the newer fedfer, or restore a copy from before it"
            )
        if current != newest:
            command.upgrade(_config(connection), "head")
    return newest


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


@contextmanager
def _locked(engine: Engine) -> Iterator[Connection]:
    """A transaction that no other migrating server is in at the same time."""
    if engine.dialect.name == "sqlite":
        # sqlite3 begins no transaction before CREATE TABLE by itself: begun here, it holds the write lock.
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.exec_driver_sql("ROLLBACK")
                raise
            connection.exec_driver_sql("COMMIT")
    else:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK_KEY})")
            yield connection
