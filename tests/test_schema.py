"""The database's schema: made by migrations, the same in SQLite and PostgreSQL, never a newer one touched."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from postgres import fresh_database, missing
from sqlalchemy import Engine, create_engine, event, inspect, text

from fedfer.aggregator import tables
from fedfer.aggregator.schema import bring_up_to_date
from fedfer.model.errors import StoreError


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """An empty database."""
    if request.param == "postgresql" and missing():
        pytest.skip(str(missing()))
    url = f"sqlite:///{tmp_path / 'x.db'}" if request.param == "sqlite" else fresh_database(str(tmp_path))
    engine = create_engine(url)
    yield engine
    engine.dispose()


def test_migrations_make_the_tables_that_the_code_uses(engine: Engine) -> None:
    """When this fails after a change to tables.py: write a migration in aggregator/migrations/versions."""
    bring_up_to_date(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, tables.metadata) == []
        assert set(inspect(connection).get_table_names()) == {*tables.metadata.tables, "alembic_version"}


def test_again_changes_nothing(engine: Engine) -> None:
    first = bring_up_to_date(engine)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE of_somebody_else (x INTEGER)"))
    assert bring_up_to_date(engine) == first
    assert "of_somebody_else" in inspect(engine).get_table_names()


def test_a_newer_schema_is_refused(engine: Engine) -> None:
    bring_up_to_date(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreError, match="schema 9999, of a newer fedfer; this one knows up to 0"):
        bring_up_to_date(engine)


def test_tables_of_others_are_refused(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE devices (x INTEGER)"))
    with pytest.raises(StoreError, match="tables but no schema version"):
        bring_up_to_date(engine)
    assert inspect(engine).get_table_names() == ["devices"]


def test_a_failed_migration_leaves_nothing(engine: Engine) -> None:
    """All or nothing: what was made before the last statement fails is gone."""

    def fail(_: object, __: object, statement: str, *___: object) -> None:
        if statement.startswith("INSERT INTO alembic_version"):
            raise RuntimeError("half-way")

    event.listen(engine, "before_cursor_execute", fail)
    with pytest.raises(RuntimeError, match="half-way"):
        bring_up_to_date(engine)
    event.remove(engine, "before_cursor_execute", fail)
    assert inspect(engine).get_table_names() == []
    bring_up_to_date(engine)
    assert "devices" in inspect(engine).get_table_names()


def test_two_servers_that_start_at_once(engine: Engine) -> None:
    failures: list[BaseException] = []

    def start() -> None:
        try:
            bring_up_to_date(engine)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
