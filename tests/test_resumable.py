"""Uploads that go on where they were cut off, against a server process over real sockets."""

import base64
import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from raw_http import answer, take
from server_helpers import OCTETS, Phone, Server, serving, start, synthetic_update
from waiting import PATIENCE_SEC, wait_for

from fedfer.export.checkpoint import max_checkpoint_bytes
from fedfer.export.contract import Contract, read_contract


@dataclass
class Upload:
    """A phone with work in its server's first round, and the checkpoint that it is to bring."""

    phone: Phone
    body: bytes
    data_dir: Path = Path()

    def __post_init__(self) -> None:
        self.work = self.phone.work()
        self.sha256 = hashlib.sha256(self.body).hexdigest()

    @property
    def directory(self) -> Path:
        """Where the server keeps what came."""
        return self.data_dir / "partial" / self.phone.device_id

    @property
    def digest(self) -> str:
        return f"sha-256=:{base64.b64encode(bytes.fromhex(self.sha256)).decode()}:"

    def offset(self, sha256: str | None = None) -> int:
        reply = self.phone.client.head(f"/v1/uploads/{sha256 or self.sha256}", headers=self.phone.headers)
        assert (reply.status_code, reply.content) == (204, b"")
        return int(reply.headers["upload-offset"])

    def append(self, body: bytes, offset: int | str, sha256: str | None = None) -> httpx.Response:
        headers = {**self.phone.headers, **OCTETS, "Upload-Offset": str(offset)}
        return self.phone.client.patch(f"/v1/uploads/{sha256 or self.sha256}", content=body, headers=headers)

    def hand_in(self) -> httpx.Response:
        return self.phone.upload(self.work, b"", upload=self.sha256)

    def begun(self, port: int, method: str, num_bytes: int) -> socket.socket:
        """A connection on which so many bytes of the body came, which somebody waits for, and no more do."""
        path = f"/v1/uploads/{self.sha256}"
        headers = f"Upload-Offset: {self.offset()}\r\n"
        length = len(self.body) - self.offset()
        if method == "PUT":
            query = f"base_weights={self.work['weights']}&num_examples=5&loss=1.5&accuracy=0.25"
            path = f"/v1/runs/default/rounds/1/update?{query}"
            headers, length = f"Content-Digest: {self.digest}\r\n", len(self.body)
        connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SEC)
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.phone.token}\r\n"
            f"Content-Type: application/octet-stream\r\nExpect: 100-continue\r\n"
            f"{headers}Content-Length: {length}\r\n\r\n"
        )
        connection.sendall(head.encode())
        assert take(connection).startswith(b"HTTP/1.1 100 ")
        connection.sendall(self.body[len(self.body) - length :][:num_bytes])
        return connection


@pytest.fixture(scope="module")
def contract(tiny_tflite: Path) -> Contract:
    return read_contract(tiny_tflite)


@pytest.fixture(scope="module")
def server(tiny_tflite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Its first round has a place for every test."""
    data_dir = tmp_path_factory.mktemp("resumable") / "data"
    with serving(tiny_tflite, data_dir, "--clients", "500") as server:
        yield server


@pytest.fixture
def upload(server: Server, contract: Contract) -> Iterator[Upload]:
    with server.client() as client:
        data_dir = server.log.with_suffix("")
        yield Upload(Phone(client, "one").enrol(), synthetic_update(contract, 1), data_dir)


def updates_of(upload: Upload) -> list[str]:
    """The updates of its phone that count."""
    record = upload.phone.client.get("/v1/runs/default/rounds/1").json()
    return [sent["update"] for sent in record["updates"] if sent["device_id"] == upload.phone.device_id]


def code(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["code"]


def test_in_pieces(upload: Upload) -> None:
    assert upload.offset() == 0
    offset = 0
    for length in (1, 10, 5000, len(upload.body)):
        reply = upload.append(upload.body[offset : offset + length], offset)
        offset = min(offset + length, len(upload.body))
        assert (reply.status_code, reply.headers["upload-offset"]) == (204, str(offset))
        assert upload.offset() == offset
    receipt = upload.hand_in()
    assert receipt.status_code == 200, receipt.text
    assert receipt.json()["update"] == upload.sha256
    assert receipt.json()["received_bytes"] == len(upload.body)
    assert upload.offset() == 0
    assert not upload.directory.exists()


def test_the_receipt_is_the_same_however_often_and_in_whatever_way(upload: Upload) -> None:
    upload.append(upload.body, 0)
    receipt = upload.hand_in().json()
    assert upload.hand_in().json() == receipt
    assert upload.phone.upload(upload.work, upload.body).json() == receipt
    assert len(updates_of(upload)) == 1


@pytest.mark.parametrize("given", ["9999", "10001", "0", "-10000", "-1", "1e4", "10000.0", "x", ""])
def test_a_wrong_offset_is_told_the_right_one(upload: Upload, given: str) -> None:
    assert upload.append(upload.body[:10_000], 0).status_code == 204
    reply = upload.append(upload.body[10_000:], given)
    assert (code(reply), reply.headers["upload-offset"]) == ((409, "wrong_offset"), "10000")
    assert upload.offset() == 10_000
    assert upload.append(upload.body[10_000:], 10_000).status_code == 204
    assert upload.hand_in().status_code == 200


def test_without_an_offset(upload: Upload) -> None:
    headers = {**upload.phone.headers, **OCTETS}
    reply = upload.phone.client.patch(f"/v1/uploads/{upload.sha256}", content=b"x", headers=headers)
    assert code(reply) == (400, "bad_request")


def test_a_whole_upload_that_is_cut_off_goes_on(upload: Upload, server: Server) -> None:
    with closing(upload.begun(server.port, "PUT", 10_000)):
        wait_for(upload.directory.exists)
    wait_for(lambda: upload.offset() == 10_000)
    assert upload.append(upload.body[10_000:], 10_000).status_code == 204
    assert upload.hand_in().json()["update"] == upload.sha256


def test_a_killed_server_knows_what_came(tiny_tflite: Path, tmp_path: Path, contract: Contract) -> None:
    """Of a whole upload, what was written; of an answered piece, all."""
    server = start(tiny_tflite, tmp_path / "data", "--clients", "2")
    body = synthetic_update(contract, 1)
    with server.client() as client:
        upload = Upload(Phone(client, "one").enrol(), body)
        assert upload.append(body[:5000], 0).status_code == 204
        with closing(upload.begun(server.port, "PATCH", 10)):
            server.kill()
    with serving(tiny_tflite, tmp_path / "data", "--clients", "2") as again, again.client() as client:
        upload.phone.client = client
        there = upload.offset()
        assert 5000 <= there <= 5010
        assert upload.append(body[there:], there).status_code == 204
        assert upload.hand_in().json()["received_bytes"] == len(body)


def test_what_the_network_did_is_not_noted_as_a_refusal(upload: Upload, server: Server) -> None:
    """An upload that is cut off, one of which nothing came, bytes that came damaged: each is sent again."""
    assert code(upload.hand_in()) == (404, "unknown_upload")
    with closing(upload.begun(server.port, "PUT", 10_000)):
        wait_for(upload.directory.exists)
    wait_for(lambda: upload.offset() == 10_000)
    assert upload.append(bytes(len(upload.body) - 10_000), 10_000).status_code == 204
    assert code(upload.hand_in()) == (400, "bad_digest")
    assert refusals_of(upload) == []
    refused = code(upload.phone.upload(upload.work, b"no checkpoint"))[1]
    assert refusals_of(upload) == [refused]


def refusals_of(upload: Upload) -> list[str]:
    """The codes of what its phone was refused."""
    record = upload.phone.client.get("/v1/runs/default/rounds/1").json()
    return [each["code"] for each in record["refusals"] if each["device_id"] == upload.phone.device_id]


def test_other_bytes_than_their_name_says_are_given_up(upload: Upload) -> None:
    upload.append(upload.body[:-1] + b"\xff", 0)
    assert code(upload.hand_in()) == (400, "bad_digest")
    assert (upload.offset(), upload.directory.exists()) == (0, False)
    assert code(upload.hand_in()) == (404, "unknown_upload")
    assert upload.phone.upload(upload.work, upload.body).status_code == 200


def test_content_is_checked_as_in_one_piece(upload: Upload) -> None:
    upload.body = upload.body[:100]
    upload.sha256 = hashlib.sha256(upload.body).hexdigest()
    upload.append(upload.body, 0)
    assert code(upload.hand_in()) == (400, "truncated")
    assert not upload.directory.exists()


def test_no_more_bytes_than_a_checkpoint_has(upload: Upload, contract: Contract) -> None:
    most = max_checkpoint_bytes(contract)
    assert code(upload.append(bytes(most + 1), 0)) == (413, "too_large")
    assert upload.append(bytes(most - 1), 0).status_code == 204
    assert code(upload.append(b"12", most - 1)) == (413, "too_large")
    assert upload.append(b"1", most - 1).status_code == 204


def test_a_body_besides_an_upload(upload: Upload) -> None:
    assert code(upload.phone.upload(upload.work, b"x", upload=upload.sha256)) == (400, "bad_request")


def test_giving_up(upload: Upload) -> None:
    upload.append(upload.body, 0)
    reply = upload.phone.client.delete(f"/v1/uploads/{upload.sha256}", headers=upload.phone.headers)
    assert (reply.status_code, upload.offset(), upload.directory.exists()) == (204, 0, False)


def test_uploads_are_their_devices_own(upload: Upload) -> None:
    upload.append(upload.body, 0)
    stranger = Upload(Phone(upload.phone.client, "stranger").enrol(), upload.body)
    assert stranger.offset() == 0
    assert code(stranger.hand_in()) == (404, "unknown_upload")
    path = f"/v1/uploads/{upload.sha256}"
    assert upload.phone.client.head(path).status_code == 401
    assert upload.phone.client.patch(path, content=b"x", headers=OCTETS).status_code == 401
    assert upload.phone.client.delete(path).status_code == 401
    assert upload.offset() == len(upload.body)


def test_few_unfinished_uploads_for_each_device(upload: Upload) -> None:
    names = [hashlib.sha256(bytes([number])).hexdigest() for number in range(3)]
    for name in names:
        upload.append(b"abc", 0, name)
        time.sleep(0.02)  # more than the clock of the file system's times may miss
    assert [upload.offset(name) for name in names] == [0, 3, 3]


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_a_newer_request_ends_one_that_hangs(upload: Upload, server: Server, method: str) -> None:
    """The phone is on another network now; its old connection has not been missed yet."""
    with closing(upload.begun(server.port, method, 10_000)) as old:
        wait_for(upload.directory.exists)
        there = upload.offset()
        assert there <= 10_000
        head, body = answer(old)
        assert b" 409 " in head.splitlines()[0]
        assert b"taken_over" in body
        assert upload.append(upload.body[there:], there).status_code == 204
        assert upload.hand_in().status_code == 200


def test_a_whole_upload_beside_one_that_hangs(upload: Upload, server: Server) -> None:
    with closing(upload.begun(server.port, "PUT", 10_000)):
        assert upload.phone.upload(upload.work, upload.body).status_code == 200


def test_whole_uploads_at_once_do_not_push_each_other_out(upload: Upload, contract: Contract) -> None:
    """Five of one device that say their sha256, with room for two unfinished ones: each gets its answer."""
    bodies = [synthetic_update(contract, seed) for seed in range(1, 6)]
    replies: list[httpx.Response] = []

    def send(body: bytes) -> None:
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        query = {"base_weights": upload.work["weights"], "num_examples": 5, "loss": 1.5, "accuracy": 0.25}
        headers = {**upload.phone.headers, **OCTETS, "Content-Digest": f"sha-256=:{digest}:"}
        path = "/v1/runs/default/rounds/1/update"
        replies.append(upload.phone.client.put(path, params=query, content=body, headers=headers))

    threads = [threading.Thread(target=send, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(reply.status_code for reply in replies) == [200, 409, 409, 409, 409]
    assert {code(reply) for reply in replies if reply.status_code == 409} == {(409, "already_reported")}
    assert not upload.directory.exists()
