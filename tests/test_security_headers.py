"""Headers of every kind of answer, from a real server."""

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from raw_http import answer
from server_helpers import Server, serving
from waiting import PATIENCE_SEC

from fedfer.aggregator.security_headers import SECURITY_HEADERS, docs_policy


@pytest.fixture(scope="module")
def server(tiny_tflite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tiny_tflite, tmp_path_factory.mktemp("headers") / "data") as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/healthz", 200),
        ("GET", "/v1/runs/default", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/nothing", 404),
        ("POST", "/healthz", 405),
        ("POST", "/v1/work", 401),
        ("GET", "/v1/models/x", 400),
    ],
)
def test_every_answer_has_them(client: httpx.Client, method: str, path: str, status: int) -> None:
    reply = client.request(method, path)
    assert reply.status_code == status
    assert {name: reply.headers[name] for name in SECURITY_HEADERS} == SECURITY_HEADERS
    assert "server" not in reply.headers
    assert "strict-transport-security" not in reply.headers


def test_files_may_be_kept_and_are_not_sniffed(client: httpx.Client) -> None:
    model = client.get("/v1/runs/default").json()["model"]
    headers = client.get(f"/v1/models/{model}").headers
    assert headers.get_list("cache-control") == ["public, max-age=31536000, immutable"]
    assert headers["x-content-type-options"] == "nosniff"


def test_a_token_is_not_kept_by_caches(client: httpx.Client) -> None:
    reply = client.post("/v1/devices", json={"name": "phone"})
    assert (reply.status_code, reply.headers["cache-control"]) == (201, "no-store")


def test_the_page_of_calls_may_run_its_own_scripts_only(client: httpx.Client) -> None:
    reply = client.get("/docs")
    assert reply.headers["content-type"].startswith("text/html")
    policy = reply.headers["content-security-policy"]
    assert policy == docs_policy(reply.text)
    assert len(re.findall("'sha256-[A-Za-z0-9+/]{43}='", policy)) == reply.text.count("<script>") == 1
    assert "'unsafe-inline'" not in policy.partition("style-src")[0]
    for url in re.findall(r'(?:src|href)="(https://[^/"]+)', reply.text):
        assert url in policy
    assert client.get("/redoc").status_code == 404


def test_what_is_not_http_gets_a_refusal_too(server: Server) -> None:
    for sent, status, code in (
        (b"\x16\x03\x01\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 20_000, 431, "head_too_large"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 20_000 + b"\r\n\r\n", 431, "head_too_large"),
        (b"GET /?" + b"q" * 17_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431, "head_too_large"),
    ):
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_SEC) as connection:
            connection.sendall(sent)
            head, body = answer(connection)
        assert head.startswith(b"HTTP/1.1 %d " % status), head
        assert json.loads(body)["error"]["code"] == code
        assert b"x-content-type-options: nosniff" in head
