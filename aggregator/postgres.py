"""Connections to PostgreSQL that do not wait for ever for a server that is there and says nothing.

Its own limits (statement_timeout) are kept by the server, which is what hangs; TCP's see a machine that is
gone, not a process that is stuck.
"""

import time
from collections.abc import Generator
from typing import Any

import psycopg
from sqlalchemy import Engine, event

ANSWER_SEC = 10.0  # for one statement
CONNECT_SEC = 5  # unless the URL has a connect_timeout


class PatientConnection(psycopg.Connection[Any]):
    """Is closed when an answer takes longer than ANSWER_SEC, and raises OperationalError."""

    def wait(self, gen: Generator[Any, Any, Any], *args: Any, **kwargs: Any) -> Any:
        return super().wait(self._within(gen), *args, **kwargs)

    def _within(self, gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """Passes on what psycopg asks of the socket. It is told every tenth of a second that nothing came."""
        ends_at = time.monotonic() + ANSWER_SEC
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if time.monotonic() > ends_at:
                    self.close()
                    raise psycopg.OperationalError(f"PostgreSQL has not answered for {ANSWER_SEC:g} s")
                wanted = gen.send(ready)
        except StopIteration as done:
            return done.value


def use_patient_connections(engine: Engine) -> None:
    """All that `engine` opens from now on."""

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: object, _record: object, args: list[Any], params: dict[str, Any]) -> Any:
        return PatientConnection.connect(*args, **{"connect_timeout": CONNECT_SEC, **params})
