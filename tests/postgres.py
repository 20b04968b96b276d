"""A PostgreSQL server for tests: the one that FEDFER_TEST_POSTGRES_URL names, or a private one.

The private one lives in a temporary directory, listens on a socket in it and nowhere else, and ends with the
process. PostgreSQL refuses to run as root; then it runs as the user `postgres` of Debian's package.
"""

import atexit
import functools
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy import URL, make_url

URL_VARIABLE = "FEDFER_TEST_POSTGRES_URL"
DATABASE_VARIABLE = "FEDFER_TEST_DATABASE"  # sqlite or postgresql: what the tests of the aggregator use
USER = "postgres"
on_sqlite = pytest.mark.skipif(
    os.environ.get(DATABASE_VARIABLE) == "postgresql", reason="about SQLite's file; this run is on PostgreSQL"
)


def missing() -> str | None:
    """Why there is no PostgreSQL here, None if there is."""
    if os.environ.get(URL_VARIABLE) or _programs() is not None:
        return None
    return f"no PostgreSQL: neither {URL_VARIABLE} nor an installation (Debian: apt-get install postgresql)"


def database_url(data_dir: Path) -> str | None:
    """What `--database-url` a server on this directory gets in this test run: None is SQLite."""
    return fresh_database(str(data_dir)) if os.environ.get(DATABASE_VARIABLE) == "postgresql" else None


@functools.cache
def fresh_database(name: str) -> str:
    """URL of a database of its own for `name`; the same name gets the same database."""
    server = _server()
    database = "fedfer_" + hashlib.sha256(f"{os.getpid()} {name}".encode()).hexdigest()[:24]
    engine = sqlalchemy.create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {database}")
    engine.dispose()
    return server.set(database=database).render_as_string(hide_password=False)


@functools.cache
def _server() -> URL:
    given = os.environ.get(URL_VARIABLE)
    return make_url(given) if given else Cluster().url


class Cluster:
    """A private server, running until the process ends or `stop`."""

    def __init__(self) -> None:
        programs = _programs()
        assert programs is not None, missing()
        self._programs = programs
        self.root = Path(tempfile.mkdtemp(prefix="fedfer-postgres-"))
        if os.geteuid() == 0:
            shutil.chown(self.root, USER)
        atexit.register(self.remove)
        self.data = self.root / "data"
        self._run("initdb", "--pgdata", self.data, "--username", USER, "--auth", "trust", "--no-sync")
        self.start()
        self.url = URL.create(
            "postgresql+psycopg", username=USER, database="postgres", query={"host": str(self.root)}
        )

    def start(self) -> None:
        """No syncing: what is killed in tests is the aggregator, never the machine."""
        options = f"-c listen_addresses='' -k {self.root} -c fsync=off -c max_connections=300"
        log = self.root / "log"
        self._run("pg_ctl", "start", "--wait", "--pgdata", self.data, "--log", log, "--options", options)

    def stop(self) -> None:
        self._run("pg_ctl", "stop", "--wait", "--mode", "immediate", "--pgdata", self.data)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """All its processes, as when the machine below them hangs."""
        first = int((self.data / "postmaster.pid").read_text().split()[0])
        found = subprocess.run(["pgrep", "-P", str(first)], capture_output=True, text=True, check=True)
        processes = [first, *map(int, found.stdout.split())]
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in processes:
                os.kill(process, signal.SIGCONT)

    def remove(self) -> None:
        if (self.data / "postmaster.pid").exists():
            self.stop()
        shutil.rmtree(self.root, ignore_errors=True)

    def _run(self, program: str, *arguments: object) -> None:
        command = [str(self._programs / program), *map(str, arguments)]
        if os.geteuid() == 0:
            command = ["runuser", "-u", USER, "--", *command]
        # Files, not pipes: the server would keep a pipe open for as long as it runs.
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(command, stdout=output, stderr=output, cwd=self.root, check=False)
            output.seek(0)
            assert done.returncode == 0, output.read().decode()


def _programs() -> Path | None:
    """The directory of the newest installation's programs."""
    found = [Path(path).parent for path in (shutil.which("initdb"),) if path]
    debian = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    found += sorted((path.parent for path in debian), key=lambda path: int(path.parent.name), reverse=True)
    as_root = os.geteuid() == 0
    return found[0] if found and not (as_root and shutil.which("runuser") is None) else None
