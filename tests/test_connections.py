"""Counting connections: by hand, by a state machine's bound, and over real sockets."""

import resource
import socket
import subprocess
import sys
from contextlib import AbstractContextManager, closing

import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from served_here import serving_here
from waiting import PATIENCE_SEC, wait_for

from fedfer.aggregator.connections import ConnectionCounter, counted

HOSTS = ("192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2", "127.0.0.1")


def is_exempt(host: str) -> bool:
    return host == "127.0.0.1"


@given(st.lists(st.tuples(st.sampled_from(HOSTS), st.booleans()), max_size=60))
def test_never_more_than_allowed_and_no_count_is_lost(steps: list[tuple[str, bool]]) -> None:
    counter, inside = ConnectionCounter(2, 6, is_exempt), list[str]()
    for host, enters in steps:
        if enters and counter.enter(host):
            inside.append(host)
        elif not enters and host in inside:
            inside.remove(host)
            counter.leave(host)
        by_v6 = sum(host.startswith("2001") for host in inside)
        assert len(inside) <= 6
        assert max(inside.count("192.0.2.1"), inside.count("192.0.2.2"), by_v6) <= 2
    for host in inside:
        counter.leave(host)
    assert [counter.enter("192.0.2.1") for _ in range(3)] == [True, True, False]


def test_by_hand() -> None:
    counter = ConnectionCounter(1, 3, is_exempt)
    entered = [counter.enter(host) for host in ("2001:db8::1", "2001:db8::2", *["127.0.0.1"] * 3)]
    assert entered == [True, False, True, True, False]
    counter.leave("2001:db8::1")
    assert counter.enter("192.0.2.1")


def serving(counter: ConnectionCounter) -> AbstractContextManager[tuple[str, int]]:
    """Host and port of a server that answers 404 to everything."""
    return serving_here(FastAPI(), counted(counter))


def test_connections_beyond_the_limit_are_closed_at_once() -> None:
    with serving(ConnectionCounter(2, 100, lambda _: False)) as address:
        allowed = [socket.create_connection(address, timeout=PATIENCE_SEC) for _ in range(2)]
        for connection in allowed:
            assert answer(connection).startswith(b"HTTP/1.1 404")
        with closing(socket.create_connection(address, timeout=PATIENCE_SEC)) as extra:
            assert answer(extra) == b""
        allowed[0].close()
        wait_for(lambda: can_connect(address))
        allowed[1].close()


def can_connect(address: tuple[str, int]) -> bool:
    with closing(socket.create_connection(address, timeout=PATIENCE_SEC)) as connection:
        return answer(connection).startswith(b"HTTP/1.1 404")


def answer(connection: socket.socket) -> bytes:
    """The first bytes of the answer to a request, none if the connection is closed instead."""
    try:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        return connection.recv(65536)
    except ConnectionError:
        return b""


@pytest.mark.parametrize("soft", [256, 1024])
def test_the_server_may_open_as_many_files_as_the_system_lets_it(soft: int) -> None:
    """In a process of its own, whose limits it changes."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip(f"this system lets a process open {hard} files")
    code = (
        "import resource as r; from fedfer.aggregator.connections import raise_open_files as f;"
        f"r.setrlimit(r.RLIMIT_NOFILE, ({soft}, 4096)); print(f(), r.getrlimit(r.RLIMIT_NOFILE)[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(4096 - 256), "4096"]
