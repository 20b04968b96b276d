"""Several runs on one server: who works for which, pausing, stopping, adding; all over a real socket."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import prepared
import pytest
from server_helpers import SERVE, Phone, Server, serving, start, synthetic_update, wait_for_round

from fedfer.export.checkpoint import digest_of
from fedfer.export.contract import Contract, read_contract

ADMIN_KEY = "a-key-for-tests-only"
ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}


@pytest.fixture(scope="module")
def contract(tiny_tflite: Path) -> Contract:
    return read_contract(tiny_tflite)


@pytest.fixture(autouse=True)
def admin_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDFER_ADMIN_KEY", ADMIN_KEY)


def run_file(directory: Path, name: str, model: Path, num_clients: int = 1, num_rounds: int = 1) -> Path:
    path = directory / f"{name}.toml"
    rounds = f"num_rounds = {num_rounds}\n[rounds]\nnum_clients = {num_clients}"
    path.write_text(f'name = "{name}"\nmodel = "{model}"\n{rounds}\n')
    return path


@pytest.fixture
def server(tiny_tflite: Path, plain_tflite: Path, tmp_path: Path) -> Iterator[Server]:
    """Runs default (tiny, 2 clients), other (plain, 1) and third (tiny, 4)."""
    files = [run_file(tmp_path, "other", plain_tflite), run_file(tmp_path, "third", tiny_tflite, 4)]
    options = [word for path in files for word in ("--run", str(path))]
    with serving(tiny_tflite, tmp_path / "data", "--clients", "2", "--rounds", "2", *options) as server:
        yield server


def refused(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["code"]


def work_in(phone: Phone, run: str) -> dict[str, Any]:
    reply = phone.client.post("/v1/work", headers=phone.headers, json={"run": run})
    answer: dict[str, Any] = reply.json()
    return answer


def test_devices_work_for_the_run_that_fits_and_has_most_room(
    server: Server, tiny_tflite: Path, plain_tflite: Path
) -> None:
    contracts = [read_contract(path).digest for path in (tiny_tflite, plain_tflite)]
    with server.client() as client:
        listed = client.get("/v1/runs").json()["runs"]
        assert [(run["run"], run["state"], run["round"]) for run in listed] == [
            ("default", "running", 1),
            ("other", "running", 1),
            ("third", "running", 1),
        ]
        plain = Phone(client, "plain").enrol(contract=contracts[1])
        assert plain.work()["run"] == "other"
        assert refused(client.post("/v1/work", headers=plain.headers, json={"run": "default"})) == (
            409,
            "wrong_model",
        )
        phones = [Phone(client, f"phone-{i}").enrol(contract=contracts[0]) for i in range(4)]
        assert [phone.work()["run"] for phone in phones] == ["default", "third", "third", "default"]
        assert [phone.work()["run"] for phone in phones] == ["default", "third", "third", "default"]
        assert refused(client.post("/v1/work", headers=plain.headers, json={"run": "none"})) == (
            404,
            "unknown_run",
        )
        assert refused(client.post("/v1/work", headers=plain.headers, json={"run": "../x"})) == (
            400,
            "bad_request",
        )
        strange = client.post("/v1/devices", json={"name": "x", "contract": "0" * 64})
        assert refused(strange) == (409, "wrong_model")


def test_runs_do_not_share_rounds_and_survive_a_kill(
    server: Server, tiny_tflite: Path, tmp_path: Path, contract: Contract
) -> None:
    with server.client() as client:
        phone = Phone(client, "phone").enrol()
        for run, seed in (("default", 1), ("third", 2)):
            work = work_in(phone, run)
            assert phone.upload(work, synthetic_update(contract, seed)).json()["run"] == run
        other = phone.upload({**work, "run": "other"}, synthetic_update(contract, 2))
        assert refused(other) == (409, "not_assigned")
        before = client.get("/v1/runs").json()
        assert [len(r["updates"]) for r in client.get("/v1/runs/third/rounds").json()["rounds"]] == [0, 1]
    server.kill()
    again = start(tiny_tflite, tmp_path / "data", "--clients", "2", "--rounds", "2")
    try:
        with again.client() as client:
            assert client.get("/v1/runs").json() == before
            assert refused(client.get("/v1/runs/none")) == (404, "unknown_run")
    finally:
        again.kill()


def test_pause_resume_stop(server: Server, contract: Contract) -> None:
    with server.client() as client:
        phone, late = Phone(client, "phone").enrol(), Phone(client, "late").enrol()
        work = work_in(phone, "default")
        assert client.post("/v1/runs/default/pause", headers=ADMIN).json()["state"] == "paused"
        assert work_in(late, "default")["reason"] == "paused"
        assert late.work()["run"] == "other"
        assert refused(client.post("/v1/runs/default/pause", headers=ADMIN)) == (409, "wrong_state")
        assert phone.upload(work, synthetic_update(contract, 1)).status_code == 200
        assert client.post("/v1/runs/default/resume", headers=ADMIN).json()["state"] == "running"
        assert work_in(late, "default")["action"] == "train"
        stopped = client.post("/v1/runs/default/stop", headers=ADMIN).json()
        assert (stopped["state"], stopped["stop_reason"]) == ("stopped", "operator")
        too_late = late.upload(work, synthetic_update(contract, 2))
        assert refused(too_late) == (409, "training_over")
        assert "operator" in too_late.json()["error"]["reason"]
        answer = work_in(phone, "default")
        assert (answer["action"], answer["reason"]) == ("stop", "operator")
        assert answer["weights"] == work["weights"]
        for change in ("pause", "resume", "stop"):
            assert refused(client.post(f"/v1/runs/default/{change}", headers=ADMIN)) == (409, "wrong_state")


def test_adding_a_run(server: Server, plain_tflite: Path) -> None:
    contract = read_contract(plain_tflite)
    with server.client() as client:
        other = client.get("/v1/runs/other").json()
        settings = {"num_rounds": 1, "rounds": {"num_clients": 1}}
        body = {"name": "fourth", "model": other["model"], "settings": settings}
        made = client.post("/v1/runs", json=body, headers=ADMIN)
        assert made.status_code == 201, made.text
        assert (made.json()["round"], made.json()["settings"]["rounds"]["num_clients"]) == (1, 1)
        phone = Phone(client, "phone").enrol()
        phone.upload(work_in(phone, "fourth"), synthetic_update(contract, 1))
        result = wait_for_round(client, 1, run="fourth")["result_weights"]
        assert client.get("/v1/runs/fourth").json()["stop_reason"] == "rounds"
        fifth = {"name": "fifth", "model": other["model"], "weights": result}
        assert client.post("/v1/runs", json=fifth, headers=ADMIN).json()["weights"] == result
        for changed, status, code in (
            ({}, 409, "run_exists"),
            ({"name": "A"}, 400, "bad_request"),
            ({"name": "x", "extra": 1}, 400, "bad_request"),
            ({"name": "x", "model": "0" * 64}, 404, "unknown_model"),
            ({"name": "x", "weights": "0" * 64}, 404, "unknown_weights"),
            ({"name": "x", "settings": {"rounds": {"clients": 1}}}, 400, "bad_settings"),
            ({"name": "x", "settings": {"num_rounds": 0}}, 400, "bad_settings"),
            ({"name": "x", "settings": {"strategy": {"name": "krum"}}}, 400, "bad_settings"),
            ({"name": "x", "settings": {"stopping": {"patience": 2}}}, 400, "bad_settings"),
            ({"name": "x", "settings": {"rounds": 5}}, 400, "bad_settings"),
            ({"name": "x", "settings": {"holdout": {"source": "/etc/passwd"}}}, 400, "bad_settings"),
        ):
            reply = client.post("/v1/runs", json={**body, **changed}, headers=ADMIN)
            assert refused(reply) == (status, code), reply.text


def test_bringing_a_model(tiny_tflite: Path, plain_tflite: Path, tmp_path: Path) -> None:
    model = plain_tflite.read_bytes()
    name = digest_of(model)
    octets = {"Content-Type": "application/octet-stream"}
    with serving(tiny_tflite, tmp_path / "data") as server, server.client() as client:
        put = partial(client.put, f"/v1/models/{name}", headers={**ADMIN, **octets})
        assert refused(client.put(f"/v1/models/{name}", content=model, headers=octets))[0] == 401
        assert refused(put(content=model[:-1])) == (400, "bad_digest")
        assert put(content=model).json() == {"model": name, "contract": read_contract(model).digest}
        assert put(content=model).status_code == 201
        text = client.put(f"/v1/models/{digest_of(b'x')}", content=b"x", headers={**ADMIN, **octets})
        assert refused(text) == (422, "bad_model")
        made = client.post("/v1/runs", json={"name": "plain", "model": name}, headers=ADMIN)
        assert (made.status_code, made.json()["model"]) == (201, name)


def test_only_operators_change_runs(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with server.client() as client:
        for headers in ({}, {"Authorization": "Bearer wrong"}, Phone(client, "x").enrol().headers):
            assert refused(client.post("/v1/runs/default/stop", headers=headers)) == (401, "bad_admin_key")
        assert client.get("/v1/runs/default").json()["state"] == "running"


def test_without_a_key_nobody_is_an_operator(
    tiny_tflite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FEDFER_ADMIN_KEY")
    with serving(tiny_tflite, tmp_path / "data") as server, server.client() as client:
        assert refused(client.post("/v1/runs/default/stop", headers=ADMIN)) == (403, "admin_disabled")


def test_nothing_to_serve(tmp_path: Path) -> None:
    done = prepared.run([*SERVE, "--data-dir", str(tmp_path / "none")], env=dict(os.environ))
    assert done.returncode == 1
    assert "nothing to serve" in done.stderr


def test_versions_are_listed_compared_tagged_and_gone_back_to(server: Server, contract: Contract) -> None:
    with server.client() as client:
        phones = [Phone(client, name).enrol() for name in ("a", "b")]
        for number in (1, 2):
            for seed, phone in enumerate(phones):
                phone.upload(work_in(phone, "default"), synthetic_update(contract, 10 * number + seed))
            wait_for_round(client, number)
        path = "/v1/runs/default"
        first, second, third = client.get(f"{path}/versions").json()["versions"]
        assert [v["parent_round"] for v in (first, second, third)] == [None, 0, 1]
        assert third["parent_weights"] == second["weights"]
        made_of = [[digest_of(synthetic_update(contract, 10 * n + seed)) for seed in (0, 1)] for n in (1, 2)]
        assert [v["updates"] for v in (first, second, third)] == [[], *made_of]
        tag = {"tag": "good", "version": "1"}
        assert refused(client.post(f"{path}/tags", json=tag)) == (401, "bad_admin_key")
        tagged = client.post(f"{path}/tags", json=tag, headers=ADMIN).json()
        assert (tagged["tags"], tagged["updates"]) == (["good"], second["updates"])
        looks_like = {"tag": "12", "version": "1"}
        assert refused(client.post(f"{path}/tags", json=looks_like, headers=ADMIN)) == (400, "bad_request")
        same = client.get(f"{path}/versions/compare", params={"a": "good", "b": second["weights"]}).json()
        assert (same["weights_distance"], same["holdout_loss_change"]) == (0.0, None)
        apart = client.get(f"{path}/versions/compare", params={"a": "0", "b": "2"}).json()
        assert apart["weights_distance"] > 1
        assert apart["b"] == third
        assert client.get(path).json()["state"] == "finished"
        back = client.post(f"{path}/rollback", json={"to": "good"}, headers=ADMIN).json()
        assert (back["state"], back["round"], back["weights"]) == ("running", 3, second["weights"])
        assert work_in(phones[0], "default")["weights"] == second["weights"]
        assert client.delete(f"{path}/tags/good", headers=ADMIN).status_code == 204
        gone = client.post(f"{path}/rollback", json={"to": "good"}, headers=ADMIN)
        assert refused(gone) == (404, "unknown_version")
