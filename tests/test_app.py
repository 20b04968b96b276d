"""The protocol of docs/protocol.md against `fedfer serve` as a process, over a real socket."""

import base64
import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from server_helpers import (
    OCTETS,
    UPDATE,
    Phone,
    Server,
    plain_mean,
    serving,
    synthetic_update,
    wait_for_round,
)
from waiting import wait_for

from fedfer.export.contract import Contract, read_contract


@pytest.fixture(scope="module")
def contract(tiny_tflite: Path) -> Contract:
    return read_contract(tiny_tflite)


@pytest.fixture
def server(tiny_tflite: Path, tmp_path: Path) -> Iterator[Server]:
    """Two rounds of two clients; closes at the deadline with one."""
    options = ["--rounds", "2", "--clients", "2", "--over-selection", "1"]
    with serving(tiny_tflite, tmp_path / "data", *options) as server:
        yield server


def test_whole_rounds(tiny_tflite: Path, tmp_path: Path, contract: Contract) -> None:
    options = ["--rounds", "2", "--clients", "3", "--holdout", "drawn", "--holdout-take", "4"]
    with serving(tiny_tflite, tmp_path / "data", *options) as server, server.client() as client:
        phones = [Phone(client, f"phone-{i}").enrol() for i in range(3)]
        for number in (1, 2):
            sent = [(10 * number + i, 5 + i) for i in range(3)]
            for phone, (seed, num_examples) in zip(phones, sent, strict=True):
                work = phone.work()
                assert (work["action"], work["round"]) == ("train", number)
                body = synthetic_update(contract, seed)
                receipt = phone.upload(work, body, num_examples=num_examples, loss=seed, accuracy=0.5)
                assert receipt.json() == {
                    "update": hashlib.sha256(body).hexdigest(),
                    "run": "default",
                    "round": number,
                    "num_examples": num_examples,
                    "received_bytes": len(body),
                }
            record = wait_for_round(client, number)
            mean = plain_mean(contract, sent)
            assert record["result_weights"] == hashlib.sha256(mean).hexdigest()
            assert client.get(f"/v1/weights/{record['result_weights']}").content == mean
            assert record["train_loss"] == pytest.approx(sum(s * n for s, n in sent) / 18)
            assert (record["train_accuracy"], record["bytes_up"]) == (0.5, 3 * len(mean))
            assert record["holdout_loss"] > 0
            assert record["holdout_accuracy"] in (0, 0.25, 0.5, 0.75, 1)
            assert [u["device_name"] for u in record["updates"]] == ["phone-0", "phone-1", "phone-2"]
        stop = {"action": "stop", "run": "default", "reason": "rounds", "weights": record["result_weights"]}
        assert stop.items() <= phones[0].work().items()
        status = client.get("/v1/runs/default").json()
        assert (status["state"], status["round"], status["weights"]) == ("finished", 2, stop["weights"])
        assert (client.get("/v1/runs").json()["num_devices"], status["holdout_examples"]) == (3, 4)
        rounds = client.get("/v1/runs/default/rounds").json()["rounds"]
        assert [r["round"] for r in rounds] == [0, 1, 2]
        assert rounds[0]["result_weights"] == rounds[1]["base_weights"]
        assert not list((tmp_path / "data" / "updates" / "default").iterdir())
        assert server.stop() == 0
    log = "\n".join(server.lines)
    assert not any(phone.token in log for phone in phones)
    assert "round 2 done" in log


def test_work_and_repeats(server: Server, contract: Contract) -> None:
    with server.client() as client:
        one, two, three = (Phone(client, name).enrol() for name in ("one", "two", "three"))
        work = one.work()
        assert {k: v for k, v in one.work().items() if k != "deadline_sec"} == {
            k: v for k, v in work.items() if k != "deadline_sec"
        }
        assert 0 < work["deadline_sec"] <= 600
        two.work()
        full = three.work()
        assert (full["action"], full["reason"]) == ("wait", "round_full")
        body = synthetic_update(contract, 1)
        receipt = one.upload(work, body)
        assert one.upload(work, body).json() == receipt.json()
        assert one.work()["reason"] == "already_reported"
        other = one.upload(work, synthetic_update(contract, 2))
        assert (other.status_code, other.json()["error"]["code"]) == (409, "already_reported")
        assert len(client.get("/v1/runs/default/rounds/1").json()["updates"]) == 1
        assert two.upload(work, synthetic_update(contract, 3)).status_code == 200
        wait_for_round(client, 1)
        assert one.upload(work, body).json() == receipt.json()
        again = one.upload(work, synthetic_update(contract, 4))
        assert (again.status_code, again.json()["error"]["code"]) == (409, "already_reported")
        late = three.upload(work, body)
        assert (late.status_code, late.json()["error"]["code"]) == (409, "round_over")
        assert three.work()["round"] == 2
        first, second = (client.get(f"/v1/runs/default/rounds/{number}").json() for number in (1, 2))
        told = [(sent["device_name"], sent["code"], sent["times"]) for sent in first["refusals"]]
        assert told == [("one", "already_reported", 1)]
        told = [(sent["device_name"], sent["code"], sent["times"]) for sent in second["refusals"]]
        assert told == [("one", "already_reported", 1), ("three", "round_over", 1)]
        assert second["refusals"][1]["reason"] == late.json()["error"]["reason"]
        assert three.upload(work, body).json() == late.json()
        assert client.get("/v1/runs/default/rounds/2").json()["refusals"][1]["times"] == 2
        rounds = client.get("/v1/runs/default/rounds").json()["rounds"]
        assert [row["num_refusals"] for row in rounds] == [0, 1, 3]
        assert "refusals" not in rounds[1]


def test_the_learning_rate_of_each_round(tiny_tflite: Path, tmp_path: Path, contract: Contract) -> None:
    options = ["--clients", "1", "--rounds", "2", "--learning-rate", "0.5", "--learning-rate-decay", "0.5"]
    with serving(tiny_tflite, tmp_path / "data", *options) as server, server.client() as client:
        phone = Phone(client, "phone").enrol()
        work = phone.work()
        assert phone.upload(work, synthetic_update(contract, 1)).status_code == 200
        wait_for_round(client, 1)
        assert (work["learning_rate"], phone.work()["learning_rate"]) == (0.5, 0.25)


def test_downloads(server: Server, tiny_tflite: Path) -> None:
    with server.client() as client:
        status = client.get("/v1/runs/default").json()
        model = tiny_tflite.read_bytes()
        url = f"/v1/models/{hashlib.sha256(model).hexdigest()}"
        whole = client.get(url)
        assert whole.content == model
        assert whole.headers["etag"] == f'"{status["model"]}"'
        assert whole.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert client.get(url, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
        part = client.get(url, headers={"Range": "bytes=10-19"})
        assert (part.status_code, part.content) == (206, model[10:20])
        assert part.headers["content-range"] == f"bytes 10-19/{len(model)}"
        assert client.get(url, headers={"Range": "bytes=-7"}).content == model[-7:]
        assert client.get(url, headers={"Range": f"bytes={len(model) - 3}-"}).content == model[-3:]
        assert client.get(url, headers={"Range": "bytes=0-1", "If-Range": '"x"'}).content == model
        outside = client.get(url, headers={"Range": f"bytes={len(model)}-"})
        assert (outside.status_code, outside.json()["error"]["code"]) == (416, "bad_range")
        weights = client.get(f"/v1/weights/{status['weights']}").content
        assert hashlib.sha256(weights).hexdigest() == status["weights"]
        served = 2 * len(model) + 10 + 7 + 3 + len(weights)
        wait_for(lambda: client.get("/v1/runs/default/rounds/1").json()["bytes_down"] == served)


def test_update_cannot_be_fetched(server: Server, contract: Contract) -> None:
    with server.client() as client:
        phone = Phone(client, "one").enrol()
        update = phone.upload(phone.work(), synthetic_update(contract, 1)).json()["update"]
        reply = client.get(f"/v1/weights/{update}")
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "unknown_weights")


def test_content_digest(server: Server, contract: Contract) -> None:
    with server.client() as client:
        phone = Phone(client, "one").enrol()
        work, body = phone.work(), synthetic_update(contract, 1)
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        phone_url = f"{UPDATE}?base_weights={work['weights']}&num_examples=5&loss=1&accuracy=0"
        headers = {**phone.headers, **OCTETS, "Content-Digest": f"sha-512=:AAAA:, sha-256=:{digest}:"}
        assert client.put(phone_url, content=body, headers=headers).status_code == 200


def test_deadline(tiny_tflite: Path, tmp_path: Path, contract: Contract) -> None:
    """Nobody reports by the first deadline: places are freed. One does by a later one: that suffices."""
    options = ["--rounds", "1", "--clients", "2", "--min-clients", "1", "--deadline-sec", "0.5"]
    options += ["--over-selection", "1"]
    with serving(tiny_tflite, tmp_path / "data", *options) as server, server.client() as client:
        silent = [Phone(client, f"silent-{i}").enrol() for i in range(2)]
        work, _ = (phone.work() for phone in silent)
        late = Phone(client, "late").enrol()
        wait_for(lambda: late.work()["action"] == "train")
        assert silent[0].upload(work, synthetic_update(contract, 1), num_examples=9).status_code == 200
        record = wait_for_round(client, 1)
        assert [u["num_examples"] for u in record["updates"]] == [9]
        assert record["result_weights"] == hashlib.sha256(plain_mean(contract, [(1, 9)])).hexdigest()


def test_slow_uploads_hold_up_nobody(server: Server, contract: Contract) -> None:
    with server.client() as client:
        slow, quick = Phone(client, "slow").enrol(), Phone(client, "quick").enrol()
        work, body = slow.work(), synthetic_update(contract, 1)
        connections = []
        for _ in range(8):  # as many as a device may have
            connection = socket.create_connection(("127.0.0.1", server.port))
            connection.sendall(raw_upload(slow, work["weights"], len(body)) + body[:1000])
            connections.append(connection)
        assert quick.upload(quick.work(), synthetic_update(contract, 2)).status_code == 200
        connections[0].sendall(body[1000:])  # not given up yet: nobody has waited for that
        assert connections[0].recv(100).startswith(b"HTTP/1.1 200")
        for connection in connections:
            connection.close()
        record = wait_for_round(client, 1)
        assert record["result_weights"] == hashlib.sha256(plain_mean(contract, [(1, 5), (2, 5)])).hexdigest()


def test_concurrent_copies_of_one_upload_count_once(server: Server, contract: Contract) -> None:
    with server.client() as client:
        phone = Phone(client, "one").enrol()
        work, body = phone.work(), synthetic_update(contract, 1)
        replies: list[httpx.Response] = []
        threads = [
            threading.Thread(target=lambda: replies.append(phone.upload(work, body))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {(reply.status_code, reply.text) for reply in replies} == {(200, replies[0].text)}
        assert len(client.get("/v1/runs/default/rounds/1").json()["updates"]) == 1


def test_openapi_describes_every_call(server: Server) -> None:
    with server.client() as client:
        described = client.get("/openapi.json").json()
    calls = {f"{method.upper()} {path}" for path, methods in described["paths"].items() for method in methods}
    assert calls == {
        "POST /v1/devices",
        "DELETE /v1/devices/{device_id}",
        "POST /v1/work",
        "GET /v1/models/{sha256}",
        "PUT /v1/models/{sha256}",
        "GET /v1/weights/{sha256}",
        "HEAD /v1/uploads/{sha256}",
        "PATCH /v1/uploads/{sha256}",
        "DELETE /v1/uploads/{sha256}",
        "PUT /v1/runs/{run}/rounds/{round}/update",
        "GET /v1/runs",
        "POST /v1/runs",
        "GET /v1/runs/{run}",
        "POST /v1/runs/{run}/pause",
        "POST /v1/runs/{run}/resume",
        "POST /v1/runs/{run}/stop",
        "POST /v1/runs/{run}/rollback",
        "GET /v1/runs/{run}/versions",
        "GET /v1/runs/{run}/versions/compare",
        "POST /v1/runs/{run}/tags",
        "DELETE /v1/runs/{run}/tags/{tag}",
        "GET /v1/runs/{run}/rounds",
        "GET /v1/runs/{run}/rounds/{round}",
        "GET /healthz",
        "GET /readyz",
        "GET /metrics",
    }
    body = described["paths"]["/v1/runs/{run}/rounds/{round}/update"]["put"]["requestBody"]["content"]
    assert list(body) == ["application/octet-stream"]
    assert "422" not in json.dumps(described["paths"])


def raw_upload(phone: Phone, base_weights: str, length: int) -> bytes:
    query = f"base_weights={base_weights}&num_examples=5&loss=1&accuracy=0"
    return (
        f"PUT {UPDATE}?{query} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {phone.token}\r\n"
        f"Content-Type: application/octet-stream\r\nContent-Length: {length}\r\n\r\n"
    ).encode()
