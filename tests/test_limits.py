"""Limits that `fedfer serve` has no option for, on the application under uvicorn in a thread."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from server_helpers import Phone, synthetic_update, wait_for

from fedfer.aggregator.app import create_app
from fedfer.aggregator.config import ServerConfig
from fedfer.cli.serve import listen
from fedfer.export.contract import read_contract


@contextmanager
def running(config: ServerConfig) -> Iterator[tuple[str, int]]:
    """Host and port of a server in this process."""
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(create_app(config), http="h11", log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        wait_for(lambda: server.started)
        yield listener.getsockname()
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture(scope="module")
def address(tiny_tflite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    data_dir = tmp_path_factory.mktemp("limits") / "data"
    with running(ServerConfig(tiny_tflite, data_dir, max_devices=1, body_idle_sec=0.2)) as address:
        yield address


@pytest.fixture(scope="module")
def phone(address: tuple[str, int]) -> Iterator[Phone]:
    with httpx.Client(base_url=f"http://{address[0]}:{address[1]}", timeout=30) as client:
        yield Phone(client, "only").enrol()


def test_devices_are_counted(phone: Phone) -> None:
    reply = phone.client.post("/v1/devices", json={"name": "another"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (409, "too_many_devices")


def test_upload_that_stops_coming(phone: Phone, address: tuple[str, int], tiny_tflite: Path) -> None:
    work, body = phone.work(), synthetic_update(read_contract(tiny_tflite), 1)
    query = f"base_weights={work['weights']}&num_examples=5&loss=1&accuracy=0"
    head = (
        f"PUT /v1/rounds/1/update?{query} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {phone.token}\r\n"
        f"Content-Type: application/octet-stream\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(address, timeout=60) as connection:
        connection.sendall(head.encode() + body[:100])
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"timed_out" in answer
    assert phone.upload(work, body).status_code == 200
