"""Tokens: given, expired, renewed, revoked; with a clock set by hand, and over a real server."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import Event

import httpx
import pytest
from server_helpers import Phone, serving, synthetic_update, wait_for_round
from sqlalchemy import Connection

from fedfer.aggregator.blobs import Blobs
from fedfer.aggregator.database import Database
from fedfer.aggregator.enrolment import DAY_SEC, Enrolment
from fedfer.aggregator.store import Store
from fedfer.cli.key_files import write_new_key
from fedfer.export.contract import read_contract
from fedfer.model.errors import RefusedError

START_SEC = 1_800_000_000.0


class Desk:
    """An enrolment for three devices and ten days, and its clock."""

    def __init__(self, store: Store) -> None:
        self.now_sec = START_SEC
        self.store = store
        self.enrolment = Enrolment(store.devices, lambda: self.now_sec, token_days=10, max_devices=3)

    def refusal(self, token: str) -> tuple[int, str]:
        with pytest.raises(RefusedError) as caught:
            self.enrolment.authenticate(token)
        assert len(token) < 9 or token not in str(caught.value)
        return caught.value.status, caught.value.code


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with closing(Store(Blobs(tmp_path / "data"))) as store:
        yield Desk(store)


def test_a_token_is_its_devices_and_nobody_elses(desk: Desk) -> None:
    one, two = (desk.enrolment.enrol(name, None, None) for name in ("one", "two"))
    assert one.device != two.device
    assert desk.enrolment.authenticate(one.token) == one.device
    assert desk.enrolment.authenticate(two.token) == two.device
    for wrong in ("", "x", one.token[:-1], one.token + "x", one.token.swapcase()):
        assert desk.refusal(wrong) == (401, "bad_token")


def test_tokens_are_not_in_the_database(desk: Desk, tmp_path: Path) -> None:
    enrolled = desk.enrolment.enrol("one", None, None)
    held = b"".join(path.read_bytes() for path in (tmp_path / "data").glob("fedfer.db*"))
    assert enrolled.device.id.encode() in held
    assert enrolled.token.encode() not in held


def test_a_token_expires(desk: Desk) -> None:
    enrolled = desk.enrolment.enrol("one", None, None)
    assert enrolled.expires_at == START_SEC + 10 * DAY_SEC
    desk.now_sec = enrolled.expires_at - 0.001
    assert desk.enrolment.authenticate(enrolled.token) == enrolled.device
    desk.now_sec = enrolled.expires_at
    assert desk.refusal(enrolled.token) == (401, "expired_token")


def test_enrolling_again_goes_on_as_the_same_device(desk: Desk) -> None:
    first = desk.enrolment.enrol("one", None, None)
    desk.now_sec += 11 * DAY_SEC
    second = desk.enrolment.enrol("one", None, first.token)
    assert (second.device, second.expires_at) == (first.device, desk.now_sec + 10 * DAY_SEC)
    assert desk.enrolment.authenticate(second.token) == first.device
    assert desk.refusal(first.token) == (401, "bad_token")
    assert desk.store.devices.count() == 1


def test_an_unknown_last_token_makes_a_new_device(desk: Desk) -> None:
    first = desk.enrolment.enrol("one", None, None)
    desk.enrolment.enrol("one", None, first.token)
    again = desk.enrolment.enrol("one", None, first.token)  # the answer with the second token was lost
    assert again.device != first.device
    assert desk.enrolment.enrol("two", None, "never given").device.name == "two"
    with pytest.raises(RefusedError, match="3 devices have enrolled") as caught:
        desk.enrolment.enrol("three", None, None)
    assert caught.value.code == "too_many_devices"


def test_revoked_is_revoked(desk: Desk) -> None:
    one, two = (desk.enrolment.enrol(name, None, None) for name in ("one", "two"))
    for _ in range(2):
        desk.enrolment.revoke(one.device.id)
    assert desk.refusal(one.token) == (403, "device_revoked")
    with pytest.raises(RefusedError, match="revoked"):
        desk.enrolment.enrol("one", None, one.token)
    assert desk.enrolment.authenticate(two.token) == two.device
    desk.now_sec += 11 * DAY_SEC
    assert desk.refusal(one.token) == (403, "device_revoked")


def test_who_is_recognised_without_the_database(desk: Desk) -> None:
    """Who has enrolled or was authenticated, and not after its token was renewed, revoked or has expired."""
    one, two = (desk.enrolment.enrol(name, None, None) for name in ("one", "two"))
    assert desk.enrolment.recognise(one.token) == one.device
    for each in (one, two):
        assert desk.enrolment.authenticate(each.token) == desk.enrolment.recognise(each.token) == each.device
    renewed = desk.enrolment.enrol("one", None, one.token)
    assert desk.enrolment.recognise(one.token) is None
    assert desk.enrolment.recognise(renewed.token) is None
    desk.enrolment.revoke(two.device.id)
    assert desk.enrolment.recognise(two.token) is None
    assert desk.refusal(two.token) == (403, "device_revoked")
    assert desk.enrolment.recognise(two.token) is None
    assert desk.enrolment.authenticate(renewed.token) == desk.enrolment.recognise(renewed.token) == one.device
    desk.now_sec = renewed.expires_at
    assert desk.enrolment.recognise(renewed.token) is None
    assert desk.enrolment.recognise("never given") is None


def test_revoked_while_it_is_looked_up(tmp_path: Path) -> None:
    """Once `revoke` has returned nobody is recognised, whatever was being read meanwhile."""
    with closing(Store(Blobs(tmp_path / "data"))) as store, ThreadPoolExecutor(1) as pool:
        desk = Desk(store)
        desk.enrolment = Enrolment(store.devices, lambda: START_SEC, token_days=10, max_devices=100)
        for number in range(20):
            enrolled = desk.enrolment.enrol(f"device-{number}", None, None)
            revoked = Event()
            asking = pool.submit(ask_until, desk, enrolled.token, revoked)
            desk.enrolment.revoke(enrolled.device.id)
            assert desk.enrolment.recognise(enrolled.token) is None
            revoked.set()
            asking.result()
            assert desk.enrolment.recognise(enrolled.token) is None


def test_revoked_while_it_enrols(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator who sees the device in the database before its enrolment is answered."""
    write = Database.write

    @contextmanager
    def write_and_revoke(database: Database, doing: str) -> Iterator[Connection]:
        with write(database, doing) as connection:
            yield connection
        if doing == "enrol a device":
            [device] = desk.store.devices.active(0.0, "any")
            desk.enrolment.revoke(device.id)

    monkeypatch.setattr(Database, "write", write_and_revoke)
    enrolled = desk.enrolment.enrol("one", None, None)
    assert desk.enrolment.recognise(enrolled.token) is None
    assert desk.refusal(enrolled.token) == (403, "device_revoked")


def ask_until(desk: Desk, token: str, revoked: Event) -> None:
    while not revoked.is_set():
        with suppress(RefusedError):
            desk.enrolment.authenticate(token)


@pytest.mark.parametrize("device_id", ["", "x", "'; --", "\u00e9", "0" * 32])
def test_revoking_nobody(desk: Desk, device_id: str) -> None:
    with pytest.raises(RefusedError) as caught:
        desk.enrolment.revoke(device_id)
    assert (caught.value.status, caught.value.code) == (404, "unknown_device")


def code(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["code"]


def test_an_operator_revokes_a_device(tiny_tflite: Path, tmp_path: Path) -> None:
    """Its token is refused at once; what it reported stays counted; the others go on."""
    key_file, contract = tmp_path / "admin.key", read_contract(tiny_tflite)
    write_new_key(key_file)
    options = ("--clients", "2", "--admin-key-file", str(key_file))
    admin = {"Authorization": f"Bearer {key_file.read_text().strip()}"}
    with serving(tiny_tflite, tmp_path / "data", *options) as server, server.client() as client:
        bad, good = (Phone(client, name).enrol() for name in ("bad", "good"))
        url = f"/v1/devices/{bad.device_id}"
        for headers in ({}, bad.headers, good.headers, {"Authorization": "Bearer x"}):
            assert code(client.delete(url, headers=headers)) == (401, "bad_admin_key")
        assert bad.upload(bad.work(), synthetic_update(contract, 1)).status_code == 200
        client.patch(
            f"/v1/uploads/{'a' * 64}",
            content=b"abc",
            headers={**bad.headers, "Upload-Offset": "0", "Content-Type": "application/octet-stream"},
        )
        partial = tmp_path / "data" / "partial" / bad.device_id
        assert partial.exists()
        assert client.delete(url, headers=admin).status_code == 204
        assert client.delete(url, headers=admin).status_code == 204
        assert not partial.exists()
        assert code(client.post("/v1/work", headers=bad.headers)) == (403, "device_revoked")
        again = client.post("/v1/devices", json={"name": "bad", "token": bad.token})
        assert code(again) == (403, "device_revoked")
        assert good.upload(good.work(), synthetic_update(contract, 2)).status_code == 200
        assert len(wait_for_round(client, 1)["updates"]) == 2
        assert code(client.delete("/v1/devices/none", headers=admin)) == (404, "unknown_device")
        log = "\n".join(server.lines)
    assert f"device {bad.device_id} revoked" in log
    assert not any(secret in log for secret in (admin["Authorization"][7:], bad.token, good.token))


def test_without_an_admin_key_nobody_revokes(tiny_tflite: Path, tmp_path: Path) -> None:
    with serving(tiny_tflite, tmp_path / "data") as server, server.client() as client:
        phone = Phone(client, "one").enrol()
        reply = client.delete(f"/v1/devices/{phone.device_id}", headers=phone.headers)
        assert code(reply) == (403, "admin_disabled")
        assert phone.work()["action"] == "train"


def test_tokens_of_a_server_expire_and_are_renewed(tiny_tflite: Path, tmp_path: Path) -> None:
    """One of a tenth of a millisecond has expired when it arrives; another server's is longer."""
    data_dir = tmp_path / "data"
    with serving(tiny_tflite, data_dir, "--token-days", "1e-9") as server, server.client() as client:
        phone = Phone(client, "one").enrol()
        assert code(client.post("/v1/work", headers=phone.headers)) == (401, "expired_token")
    with serving(tiny_tflite, data_dir) as server, server.client() as client:
        reply = client.post("/v1/devices", json={"name": "one", "token": phone.token})
        assert (reply.status_code, reply.json()["device_id"]) == (201, phone.device_id)
        assert reply.json()["token_expires_at"].endswith("Z")
        phone.token = reply.json()["token"]
        phone.client = client
        assert phone.work()["action"] == "train"
        for token in ("", "a b", "x" * 257, 5):
            reply = client.post("/v1/devices", json={"name": "one", "token": token})
            assert code(reply) == (400, "bad_request"), token
