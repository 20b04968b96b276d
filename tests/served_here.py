"""A server in this process, on a thread: for tests that change what it is made of."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp
from waiting import wait_for

from fedfer.aggregator.connections import PatientH11
from fedfer.cli.serve import listen


@contextmanager
def serving_here(app: ASGIApp, http: type[PatientH11]) -> Iterator[tuple[str, int]]:
    """Host and port of a server in this process that speaks HTTP as `http` does."""
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, http=http, log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        wait_for(lambda: server.started)
        yield listener.getsockname()
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
