"""Every hostile body and request gets its refusal, changes nothing, and leaves a server that answers."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from attacks.hostile_checkpoints import hostile_bodies
from attacks.hostile_requests import HostileRequest, Target, hostile_requests, post
from raw_http import answer
from server_helpers import Phone, Server, serving, synthetic_update, synthetic_weights, wait_for_round

from fedfer.export.checkpoint import digest_of, max_checkpoint_bytes
from fedfer.export.contract import Contract, read_contract


@dataclass
class Siege:
    """A server in its second round, in which `phone` has a place and `bystander` has reported."""

    server: Server
    client: httpx.Client
    phone: Phone
    bystander: Phone
    contract: Contract
    data_dir: Path

    def state(self) -> tuple[object, ...]:
        """All that a refused request must not change: everything but the note of the refusal."""
        files = sorted(str(path) for path in self.data_dir.rglob("*") if "fedfer.db" not in path.name)
        return (
            self.client.get("/v1/runs/default").json(),
            [{**row, "num_refusals": None} for row in self.rounds()],
            files,
        )

    def rounds(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.client.get("/v1/runs/default/rounds").json()["rounds"]
        return found

    def noted(self, code: str) -> int:
        """How often the phone was refused for this, as the newest round has it."""
        newest = self.client.get("/v1/runs/default/rounds/2").json()
        times = [why["times"] for why in newest["refusals"] if why["code"] == code]
        return times[0] if times else 0


@pytest.fixture(scope="module")
def siege(tiny_tflite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Siege]:
    data_dir = tmp_path_factory.mktemp("siege") / "data"
    contract = read_contract(tiny_tflite)
    with serving(tiny_tflite, data_dir, "--clients", "2") as server, server.client() as client:
        phone, bystander = Phone(client, "phone").enrol(), Phone(client, "bystander").enrol()
        for seed, device in enumerate((phone, bystander)):
            device.upload(device.work(), synthetic_update(contract, seed))
        wait_for_round(client, 1)
        assert phone.work()["round"] == 2
        bystander.upload(bystander.work(), synthetic_update(contract, 3))
        yield Siege(server, client, phone, bystander, contract, data_dir)
        assert phone.upload(phone.work(), synthetic_update(contract, 4)).status_code == 200
        wait_for_round(client, 2)
        assert not [line for line in server.lines if "ERROR" in line]


def test_hostile_bodies(siege: Siege) -> None:
    before, work = siege.state(), siege.phone.work()
    wrong = []
    for attack in hostile_bodies(siege.contract, synthetic_weights(siege.contract, 5)):
        noted = siege.noted(attack.code)
        reply = siege.phone.upload(work, attack.body)
        error = reply.json().get("error", {})
        if (reply.status_code, error.get("code")) != (attack.status, attack.code):
            wrong.append(f"{attack.name}: {reply.status_code} {reply.text}")
        assert siege.state() == before, attack.name
        assert siege.noted(attack.code) == noted + 1, attack.name
    assert not wrong, "\n".join(wrong)


def test_hostile_requests(siege: Siege) -> None:
    before, target = siege.state(), target_of(siege)
    wrong = []
    for attack in hostile_requests(target):
        status, body = exchange(siege.server.port, attack)
        if (status, json.loads(body)["error"]["code"]) != (attack.status, attack.code):
            wrong.append(f"{attack.name}: {status} {body!r}")
        assert siege.state() == before, attack.name
    assert not wrong, "\n".join(wrong)


def test_other_devices_tokens(siege: Siege) -> None:
    """A place belongs to the device whose token asked for it."""
    before, stranger = siege.state(), Phone(siege.client, "stranger").enrol()
    reply = stranger.upload(siege.phone.work(), synthetic_update(siege.contract, 6))
    assert (reply.status_code, reply.json()["error"]["code"]) == (409, "not_assigned")
    reply = siege.bystander.upload(siege.phone.work(), synthetic_update(siege.contract, 6))
    assert (reply.status_code, reply.json()["error"]["code"]) == (409, "already_reported")
    assert siege.state()[1:] == before[1:]


def test_replays(siege: Siege) -> None:
    """What was overheard once is of no use again: it counts once, for whom it was, where it was."""
    before, heard = siege.state(), synthetic_update(siege.contract, 3)  # the bystander's, of this round
    work = siege.phone.work()
    again = siege.bystander.upload(work, heard)
    assert (again.status_code, again.json()["received_bytes"]) == (200, len(heard))
    stranger = Phone(siege.client, "replayer").enrol()
    earlier = {**work, "round": 1, "weights": target_of(siege).earlier_base}
    first = synthetic_update(siege.contract, 0)  # the phone's, of the first round
    for device, told, body, code in (
        (stranger, work, heard, "not_assigned"),
        (stranger, earlier, first, "round_over"),
        (siege.phone, {**work, "weights": earlier["weights"]}, first, "wrong_base"),
        (siege.bystander, earlier, first, "already_reported"),
    ):
        reply = device.upload(told, body)
        assert (reply.status_code, reply.json()["error"]["code"]) == (409, code)
    assert siege.phone.upload(earlier, first).status_code == 200
    renewed = siege.client.post("/v1/devices", json={"name": "replayer", "token": stranger.token})
    assert renewed.json()["device_id"] == stranger.device_id
    reply = siege.client.post("/v1/work", headers=stranger.headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (401, "bad_token")
    assert siege.state()[1:] == before[1:]


def test_connections_that_end_early(siege: Siege) -> None:
    before, target = siege.state(), target_of(siege)
    head = hostile_requests(target)
    whole = next(head).chunks[0].replace(b"num_examples=0", b"num_examples=5")
    for length in (1, 40, len(whole) - len(target.body), len(whole) - len(target.body) // 2, len(whole) - 1):
        with socket.create_connection(("127.0.0.1", siege.server.port)) as connection:
            connection.sendall(whole[:length])
        assert siege.client.get("/healthz").json() == {"status": "ok"}
    enrol = post("/v1/devices", b'{"name": "a"}').replace(b"Length: 13", b"Length: 14")
    with socket.create_connection(("127.0.0.1", siege.server.port)) as connection:
        connection.sendall(enrol)
    time.sleep(0.2)
    assert siege.state()[:2] == before[:2]


def target_of(siege: Siege) -> Target:
    records = siege.client.get("/v1/runs/default/rounds").json()["rounds"]
    return Target(
        token=siege.phone.token,
        round_number=2,
        base_weights=records[2]["base_weights"],
        earlier_base=records[1]["base_weights"],
        model=siege.client.get("/v1/runs/default").json()["model"],
        body=synthetic_update(siege.contract, 5),
        max_bytes=max_checkpoint_bytes(siege.contract),
    )


def exchange(port: int, attack: HostileRequest) -> tuple[int, bytes]:
    """Status and body of the answer to a request sent byte for byte.

    Where the connection may be cut before its words are read, the words that were expected.
    """
    head, body = b"HTTP/1.1 %d" % attack.status, json.dumps({"error": {"code": attack.code}}).encode()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        cut = contextlib.suppress(ConnectionError) if attack.may_be_cut else contextlib.nullcontext()
        with cut:
            for chunk in attack.chunks:
                connection.sendall(chunk)
        with cut:
            head, body = answer(connection)
    return int(head.split()[1]), body


def test_two_uploads_at_once_for_one_slot(tiny_tflite: Path, tmp_path: Path) -> None:
    """Whichever was whole first is accepted, every other refused: also of as many as there can be at once."""
    contract = read_contract(tiny_tflite)
    with serving(tiny_tflite, tmp_path / "data", "--clients", "9") as server, server.client() as client:
        for number, at_once in enumerate((2, 2, 4, 4)):
            phone = Phone(client, f"phone-{number}").enrol()
            work, bodies = phone.work(), [synthetic_update(contract, seed) for seed in range(at_once)]
            with ThreadPoolExecutor(at_once) as pool:
                replies = list(pool.map(partial(phone.upload, work), bodies))
            assert sorted(reply.status_code for reply in replies) == [200] + [409] * (at_once - 1)
            codes = {reply.json()["error"]["code"] for reply in replies if reply.status_code == 409}
            assert codes == {"already_reported"}
            (taken,) = (reply.json()["update"] for reply in replies if reply.status_code == 200)
            sent = client.get("/v1/runs/default/rounds/1").json()["updates"]
            assert [row["update"] for row in sent if row["device_id"] == phone.device_id] == [taken]
            assert taken in map(digest_of, bodies)
