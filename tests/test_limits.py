"""Limits, on the application under uvicorn in a thread."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import ClassVar

import httpx
import pytest
from served_here import serving_here
from server_helpers import UPDATE, Phone, synthetic_update
from waiting import PATIENCE_SEC, wait_for

from fedfer.aggregator.app import create_app
from fedfer.aggregator.config import RunConfig, ServerConfig
from fedfer.aggregator.connections import PatientH11
from fedfer.aggregator.limits import Limits
from fedfer.export.contract import read_contract


class HastyH11(PatientH11):
    """`lost`: addresses of clients whose connections have ended."""

    head_sec = read_sec = 0.3
    lost: ClassVar[set[object]] = set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.add(self.client)
        super().connection_lost(exc)


def running(config: ServerConfig) -> AbstractContextManager[tuple[str, int]]:
    """Host and port of a server in this process."""
    return serving_here(create_app(config), HastyH11)


@pytest.fixture(scope="module")
def address(tiny_tflite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    data_dir = tmp_path_factory.mktemp("limits") / "data"
    with running(
        ServerConfig(data_dir, (RunConfig(tiny_tflite),), max_devices=1, body_idle_sec=1.0)
    ) as address:
        yield address


@pytest.fixture(scope="module")
def phone(address: tuple[str, int]) -> Iterator[Phone]:
    with httpx.Client(base_url=f"http://{address[0]}:{address[1]}", timeout=PATIENCE_SEC) as client:
        yield Phone(client, "only").enrol()


def test_devices_are_counted(phone: Phone) -> None:
    reply = phone.client.post("/v1/devices", json={"name": "another"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (409, "too_many_devices")


@pytest.mark.parametrize(
    ("whole", "begun"),
    [
        ("", ""),
        ("", "GET /healthz HTTP/1.1\r\nHost"),
        ("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", "GET /he"),
    ],
)
def test_a_request_that_does_not_come(address: tuple[str, int], whole: str, begun: str) -> None:
    """The connection ends: nothing came, not the whole head, or not the whole head of a second request."""
    with socket.create_connection(address, timeout=PATIENCE_SEC) as connection:
        connection.sendall(whole.encode())
        answer = b""
        while whole and not answer.endswith(b"}"):
            answer += connection.recv(65536)
        connection.sendall(begun.encode())
        assert received(connection) == b""


def test_an_answer_that_is_not_read(phone: Phone, address: tuple[str, int]) -> None:
    """The connection ends, long before all of the answers has come."""
    weights = phone.client.get("/v1/runs/default").json()["weights"]
    request = f"GET /v1/weights/{weights} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    num_bytes = len(phone.client.get(f"/v1/weights/{weights}").content)
    num_requests = 2**25 // num_bytes  # more than the buffers of both ends hold
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(60)
        connection.connect(address)
        connection.sendall(request * num_requests)
        wait_for(lambda: connection.getsockname() in HastyH11.lost)
        assert len(received(connection)) < num_requests * num_bytes
    assert phone.client.get("/healthz").status_code == 200


def received(connection: socket.socket) -> bytes:
    """All that comes until the other end closes the connection, or breaks it off."""
    answer = b""
    with suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            answer += piece
    return answer


def test_upload_that_trickles(tiny_tflite: Path, tmp_path: Path) -> None:
    """A byte now and then is never idle for long; too slow on the whole it is all the same."""
    limits = Limits(min_upload_bytes_per_sec=1e8)
    config = ServerConfig(tmp_path / "data", (RunConfig(tiny_tflite),), limits=limits, body_idle_sec=1.0)
    with running(config) as address:
        with httpx.Client(base_url=f"http://{address[0]}:{address[1]}", timeout=PATIENCE_SEC) as client:
            phone = Phone(client, "slow").enrol()
        head = (
            f"PATCH /v1/uploads/{'0' * 64} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {phone.token}\r\n"
            "Content-Type: application/octet-stream\r\nUpload-Offset: 0\r\nContent-Length: 1000\r\n\r\n"
        )
        with socket.create_connection(address, timeout=PATIENCE_SEC) as connection:
            connection.sendall(head.encode())
            trickle = threading.Thread(target=send_slowly, args=(connection, 900))
            trickle.start()
            answer = received(connection)
            trickle.join()
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"slower than 1e+08 bytes a second" in answer


def send_slowly(connection: socket.socket, num_bytes: int) -> None:
    """Until the other end has had enough."""
    with suppress(OSError):
        for _ in range(num_bytes):
            connection.sendall(b"x")
            time.sleep(0.05)


def test_upload_that_stops_coming(phone: Phone, address: tuple[str, int], tiny_tflite: Path) -> None:
    work, body = phone.work(), synthetic_update(read_contract(tiny_tflite), 1)
    query = f"base_weights={work['weights']}&num_examples=5&loss=1&accuracy=0"
    head = (
        f"PUT {UPDATE}?{query} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {phone.token}\r\n"
        f"Content-Type: application/octet-stream\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(address, timeout=PATIENCE_SEC) as connection:
        connection.sendall(head.encode() + body[:100])
        answer = received(connection)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"timed_out" in answer
    assert phone.upload(work, body).status_code == 200
