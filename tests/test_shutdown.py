"""Stopping `fedfer serve`: what has begun is finished, nobody new is let in, and nothing is lost."""

import socket
from pathlib import Path

import httpx
from server_helpers import UPDATE, Phone, plain_mean, serving, synthetic_update, wait_for_round
from waiting import PATIENCE_SEC, wait_for

from fedfer.export.checkpoint import digest_of
from fedfer.export.contract import read_contract


def test_an_upload_under_way_gets_its_receipt(tiny_tflite: Path, tmp_path: Path) -> None:
    contract = read_contract(tiny_tflite)
    body, options = synthetic_update(contract, 0), ["--clients", "2", "--rounds", "1", "--grace-sec", "60"]
    with serving(tiny_tflite, tmp_path / "data", *options) as server, server.client() as client:
        phones = [Phone(client, f"phone-{i}").enrol() for i in range(2)]
        works = [phone.work() for phone in phones]
        query = f"base_weights={works[0]['weights']}&num_examples=5&loss=1&accuracy=0"
        head = (
            f"PUT {UPDATE}?{query} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {phones[0].token}\r\n"
            f"Content-Type: application/octet-stream\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", server.port)) as upload:
            upload.sendall(head.encode() + body[:1000])
            wait_for(lambda: any((tmp_path / "data" / "tmp").iterdir()))
            server.process.terminate()
            wait_for(lambda: refuses_connections(server.port))
            upload.sendall(body[1000:])
            assert upload.recv(100).startswith(b"HTTP/1.1 200")
        assert server.process.wait(timeout=PATIENCE_SEC) == 0
    with serving(tiny_tflite, tmp_path / "data", *options) as server, server.client() as client:
        phones[1].client = client
        assert phones[1].upload(works[1], synthetic_update(contract, 1)).status_code == 200
        mean = plain_mean(contract, [(0, 5), (1, 5)])
        assert wait_for_round(client, 1)["result_weights"] == digest_of(mean)


def refuses_connections(port: int) -> bool:
    try:
        httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=PATIENCE_SEC)
    except httpx.ConnectError:
        return True
    return False
