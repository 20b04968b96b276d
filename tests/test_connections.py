"""Counting connections, and the bodies that come over them: by hand, by properties, and over real sockets."""

import hashlib
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from itertools import pairwise
from random import Random

import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st
from served_here import serving_here
from starlette.types import Receive, Scope, Send
from waiting import PATIENCE_SEC, wait_for

from fedfer.aggregator.connections import ConnectionCounter, PatientH11, counted

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


class Bodies:
    """An application that reads bodies and answers with their length and sha256, but for paths under /deaf,
    which it answers at once. Notes how many bytes took the short way."""

    def __init__(self) -> None:
        self.passed_on = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        digest, num_bytes, more = hashlib.sha256(), 0, not scope["path"].startswith("/deaf")
        while more:
            message = await receive()
            assert type(message["body"]) is bytes
            digest.update(message["body"])
            num_bytes, more = num_bytes + len(message["body"]), message["more_body"]
        text = f"{num_bytes} {digest.hexdigest()}\n".encode()
        headers = [(b"content-length", str(len(text)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": text})

    @contextmanager
    def serving(self) -> Iterator[tuple[str, int]]:
        class Noting(PatientH11):
            def _pass_on(noting, data: bytes) -> bool:  # `self` is the application
                passed = super()._pass_on(data)
                self.passed_on += len(data) * passed
                return passed

        with serving_here(self, Noting) as address:
            yield address


def request(body: bytes, *headers: str, path: str = "/") -> bytes:
    lines = [f"PUT {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def sent_in(cuts: list[int], data: bytes, address: tuple[str, int], num_answers: int) -> list[bytes]:
    """Sends the data in pieces that end at the cuts; returns the answers' bodies."""
    with socket.create_connection(address, timeout=PATIENCE_SEC) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for first, end in pairwise(sorted({0, len(data), *cuts})):
            connection.sendall(data[first:end])
        answers = connection.makefile("rb")
        bodies = list[bytes]()
        for _ in range(num_answers):
            while answers.readline() != b"\r\n":
                pass
            bodies.append(answers.readline())
        return bodies


@pytest.fixture(scope="module")
def bodies() -> Iterator[tuple[Bodies, tuple[str, int]]]:
    application = Bodies()
    with application.serving() as address:
        yield application, address


@given(
    sizes=st.lists(st.integers(0, 300_000), min_size=1, max_size=3),
    cuts=st.lists(st.integers(0, 900_000), max_size=6),
)
@settings(max_examples=40, deadline=None)
def test_bodies_arrive_as_they_were_sent_however_they_are_cut(
    bodies: tuple[Bodies, tuple[str, int]], sizes: list[int], cuts: list[int]
) -> None:
    """Several requests one behind the other on a connection."""
    sent = [Random(size).randbytes(size) for size in sizes]
    data = b"".join(request(body) for body in sent)
    answers = sent_in([cut for cut in cuts if cut < len(data)], data, bodies[1], len(sent))
    assert answers == [f"{len(body)} {hashlib.sha256(body).hexdigest()}\n".encode() for body in sent]


def test_a_large_body_takes_the_short_way(bodies: tuple[Bodies, tuple[str, int]]) -> None:
    """h11 sees what comes with the head, the last piece, and what comes behind a piece that it holds."""
    application, address = bodies
    before, body = application.passed_on, Random(0).randbytes(8_000_000)
    [answer] = sent_in([], request(body), address, 1)
    assert answer == f"{len(body)} {hashlib.sha256(body).hexdigest()}\n".encode()
    assert application.passed_on - before > 0.8 * len(body)


def test_a_body_that_waits_to_be_asked_for_and_one_that_nobody_reads(
    bodies: tuple[Bodies, tuple[str, int]],
) -> None:
    body = Random(0).randbytes(500_000)
    data = request(body, "Expect: 100-continue")
    head = len(data) - len(body)
    with socket.create_connection(bodies[1], timeout=PATIENCE_SEC) as connection:
        connection.sendall(data[:head])
        assert connection.recv(1000).startswith(b"HTTP/1.1 100")
        connection.sendall(body)
        assert hashlib.sha256(body).hexdigest().encode() in connection.makefile("rb").read(300)
    nothing = f"0 {hashlib.sha256().hexdigest()}\n".encode()
    unread = request(body, path="/deaf") + request(b"", "Connection: close")
    assert sent_in([1000, 200_000], unread, bodies[1], 2) == [nothing, nothing]
