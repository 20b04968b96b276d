"""`fedfer serve` as a process: started, stopped, killed at any moment, started again, misused."""

import argparse
import hashlib
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from postgres import database_url
from server_helpers import (
    SERVE,
    UPDATE,
    Phone,
    Server,
    plain_mean,
    serving,
    start,
    synthetic_update,
    synthetic_weights,
    wait_for_round,
)
from waiting import PATIENCE_SEC, wait_for

from fedfer.aggregator.config import HoldoutSource, RoundSettings, RunConfig, RunSettings, ServerConfig
from fedfer.aggregator.opening import running_service
from fedfer.cli import serve
from fedfer.cli.serve import listen
from fedfer.cli.settings import values_of
from fedfer.export.checkpoint import checkpoint_bytes
from fedfer.export.contract import Contract, read_contract
from fedfer.model.errors import FedferError, UsageError


@pytest.fixture(scope="module")
def contract(tiny_tflite: Path) -> Contract:
    return read_contract(tiny_tflite)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def failed_start(*arguments: object) -> str:
    """What a server that cannot start says, which has to be one line."""
    done = subprocess.run(
        [*SERVE, *map(str, arguments)], capture_output=True, text=True, timeout=PATIENCE_SEC
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("fedfer serve: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_killed_between_updates(tiny_tflite: Path, tmp_path: Path, contract: Contract) -> None:
    """Devices, places, accepted updates and receipts survive; half an upload leaves nothing."""
    data_dir, bodies = tmp_path / "data", [synthetic_update(contract, seed) for seed in range(2)]
    with (
        serving(tiny_tflite, data_dir, "--clients", "2", "--rounds", "1") as server,
        server.client() as client,
    ):
        phones = [Phone(client, f"phone-{i}").enrol() for i in range(2)]
        works = [phone.work() for phone in phones]
        receipt = phones[0].upload(works[0], bodies[0]).json()
        half = socket.create_connection(("127.0.0.1", server.port))
        head = f"PUT {UPDATE}?base_weights={works[1]['weights']}&num_examples=5&loss=1&accuracy=0"
        half.sendall(
            f"{head} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {phones[1].token}\r\n"
            f"Content-Type: application/octet-stream\r\nContent-Length: {len(bodies[1])}\r\n\r\n".encode()
            + bodies[1][:100]
        )
        client.get("/v1/runs/default")
        server.kill()
        half.close()
    with (
        serving(tiny_tflite, data_dir, "--clients", "3", "--rounds", "1") as server,
        server.client() as client,
    ):
        assert any("round 1 goes on as it was opened" in line for line in server.lines)
        assert not list((data_dir / "tmp").iterdir())
        for phone in phones:
            phone.client = client
        assert phones[0].upload(works[0], bodies[0]).json() == receipt
        assert phones[1].upload(works[1], bodies[1]).status_code == 200
        record = wait_for_round(client, 1)
        assert record["result_weights"] == digest(plain_mean(contract, [(0, 5), (1, 5)]))


def test_killed_while_aggregating(tiny_tflite: Path, tmp_path: Path, contract: Contract) -> None:
    """Killed at several moments after the last receipt; the round is closed by the next server."""
    data_dir, options = tmp_path / "data", ["--clients", "1", "--rounds", "4", "--holdout", "drawn"]
    options += ["--holdout-take", "4"]
    for number, pause_sec in enumerate((0.0, 0.02, 0.1, 0.3), start=1):
        with serving(tiny_tflite, data_dir, *options) as server, server.client() as client:
            if number > 1:
                record = wait_for_round(client, number - 1)
                assert record["result_weights"] == digest(plain_mean(contract, [(number - 1, 5)]))
                assert record["holdout_loss"] is not None
            phone = Phone(client, "phone").enrol()
            assert phone.upload(phone.work(), synthetic_update(contract, number)).status_code == 200
            time.sleep(pause_sec)
            server.kill()
    with serving(tiny_tflite, data_dir, *options) as server, server.client() as client:
        record = wait_for_round(client, 4)
        assert record["result_weights"] == digest(plain_mean(contract, [(4, 5)]))
        assert client.get("/v1/runs/default").json()["state"] == "finished"


class Reviver:
    """Kills a server after random times and starts it again on the same port, a few times."""

    def __init__(self, begin: Callable[[int], Server], kills: int, seed: int) -> None:
        self.begin, self.kills, self.random = begin, kills, random.Random(seed)
        self.server = begin(0)
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        for _ in range(self.kills):
            time.sleep(self.random.uniform(0.0, 0.4))
            self.server.kill()
            self.server = self.begin(self.server.port)


def until_answered(call: Callable[[], httpx.Response]) -> httpx.Response:
    while True:
        try:
            return call()
        except httpx.TransportError:
            time.sleep(0.02)


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_random_moments(tiny_tflite: Path, tmp_path: Path, contract: Contract, seed: int) -> None:
    """Three rounds of three phones under five kills give the same digests as plain numpy."""

    def begin(port: int) -> Server:
        return start(tiny_tflite, tmp_path / "data", "--rounds", "3", "--clients", "3", port=port)

    reviver = Reviver(begin, kills=5, seed=seed)
    with reviver.server.client() as client:
        phones = [Phone(client, f"phone-{i}").enrol() for i in range(3)]
        reviver.thread.start()
        for number in (1, 2, 3):
            for i, phone in enumerate(phones):
                work = assigned(phone, number)
                body = synthetic_update(contract, 10 * number + i)
                reply = until_answered(lambda w=work, b=body, p=phone: p.upload(w, b))  # type: ignore[misc]
                assert reply.status_code == 200, reply.text
        reviver.thread.join()
        for number in (1, 2, 3):
            record = wait_for_round(client, number)
            sent = [(10 * number + i, 5) for i in range(3)]
            assert record["result_weights"] == digest(plain_mean(contract, sent))
            assert len(record["updates"]) == 3
    reviver.server.kill()


def assigned(phone: Phone, number: int) -> dict[str, object]:
    while True:
        reply = until_answered(lambda: phone.client.post("/v1/work", headers=phone.headers))
        work: dict[str, object] = reply.json()
        if work["action"] == "train":
            assert work["round"] == number
            return work
        assert work["reason"] in ("already_reported", "aggregating")
        time.sleep(0.02)


def test_more_rounds_on_the_same_directory(tiny_tflite: Path, tmp_path: Path, contract: Contract) -> None:
    data_dir = tmp_path / "data"
    for rounds, learning_rate in (("1", "0.5"), ("2", "0.25")):
        options = ["--clients", "1", "--rounds", rounds, "--learning-rate", learning_rate]
        with serving(tiny_tflite, data_dir, *options) as server, server.client() as client:
            phone = Phone(client, "phone").enrol()
            work = phone.work()
            assert (work["round"], work["learning_rate"]) == (int(rounds), float(learning_rate))
            assert phone.upload(work, synthetic_update(contract, 1)).status_code == 200
            wait_for_round(client, int(rounds))
            assert phone.work()["action"] == "stop"
            assert server.stop() == 0


def test_disk_trouble_is_waited_out(tiny_tflite: Path, tmp_path: Path, contract: Contract) -> None:
    """An upload that cannot be kept gets 503 and changes nothing; a lost update stops only its round."""
    data_dir = tmp_path / "data"
    updates, lost = data_dir / "updates", tmp_path / "lost"
    with (
        serving(tiny_tflite, data_dir, "--clients", "2", "--rounds", "1") as server,
        server.client() as client,
    ):
        phones = [Phone(client, f"phone-{i}").enrol() for i in range(2)]
        works = [phone.work() for phone in phones]
        updates.rename(lost)
        reply = phones[0].upload(works[0], synthetic_update(contract, 0))
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "store_failed")
        assert int(reply.headers["retry-after"]) > 0
        assert client.get("/v1/runs/default/rounds/1").json()["updates"] == []
        lost.rename(updates)
        kept = phones[0].upload(works[0], synthetic_update(contract, 0)).json()["update"]
        file = updates / "default" / "1" / f"{kept}.safetensors"
        file.rename(lost)
        phones[1].upload(works[1], synthetic_update(contract, 1))
        wait_for(lambda: any("cannot close the round" in line for line in server.lines))
        assert phones[0].work()["reason"] == "aggregating"
        lost.rename(file)
        record = wait_for_round(client, 1)
        assert record["result_weights"] == digest(plain_mean(contract, [(0, 5), (1, 5)]))


def test_given_weights_and_kept_updates(tiny_tflite: Path, tmp_path: Path, contract: Contract) -> None:
    data_dir, weights = tmp_path / "data", tmp_path / "start.safetensors"
    weights.write_bytes(synthetic_update(contract, 7))
    options = ["--clients", "1", "--rounds", "1", "--keep-updates", "--weights", str(weights)]
    body = synthetic_update(contract, 1)
    with serving(tiny_tflite, data_dir, *options) as server, server.client() as client:
        phone = Phone(client, "phone").enrol()
        work = phone.work()
        assert work["weights"] == digest(weights.read_bytes())
        phone.upload(work, body)
        wait_for_round(client, 1)
        assert server.stop() == 0
    assert [path.read_bytes() for path in (data_dir / "updates" / "default" / "1").iterdir()] == [body]
    weights.write_bytes(synthetic_update(contract, 8))
    refuses_to_open(serving_of(tiny_tflite, data_dir, weights), "started from weights")


def test_clear_errors(tiny_tflite: Path, plain_tflite: Path, tmp_path: Path, contract: Contract) -> None:
    """What stops a start is said in one line by the process, and in the same words by the parts."""
    data_dir = tmp_path / "data"
    with serving(tiny_tflite, data_dir) as server:
        said = failed_start(tiny_tflite, "--data-dir", data_dir, "--port", 0)
        assert "another server is using" in said
        with pytest.raises(UsageError, match=f"cannot listen on 127.0.0.1 port {server.port}"):
            listen("127.0.0.1", server.port)
        assert server.stop() == 0
    refuses_to_open(serving_of(plain_tflite, data_dir), "holds model")
    newest = next((data_dir / "versions").iterdir())
    newest.write_bytes(newest.read_bytes()[:-1] + b"?")
    refuses_to_open(serving_of(tiny_tflite, data_dir), "missing or damaged")
    newest.unlink()
    refuses_to_open(serving_of(tiny_tflite, data_dir), "missing or damaged")
    (tmp_path / "file").write_text("")
    refuses_to_open(serving_of(tiny_tflite, tmp_path / "file"), "cannot use")
    (tmp_path / "odd" / "models" / f"{digest(tiny_tflite.read_bytes())}.tflite").mkdir(parents=True)
    refuses_to_open(serving_of(tiny_tflite, tmp_path / "odd"), "cannot write to .*odd: Is a directory")
    refuses_to_open(serving_of(tmp_path / "file", data_dir), "not a .tflite")
    refuses_to_open(serving_of(tmp_path / "none", data_dir), "No such file")
    refuses_to_open(serving_of(tiny_tflite, tmp_path / "new", runtime="none"), "'none' is not installed")
    bad = {name: np.full_like(w, np.nan) for name, w in synthetic_weights(contract, 0).items()}
    (tmp_path / "bad").write_bytes(checkpoint_bytes(bad, contract))
    refuses_to_open(serving_of(tiny_tflite, tmp_path / "new", tmp_path / "bad"), "NaN or infinity")


def serving_of(
    model: Path, data_dir: Path, weights: Path | None = None, runtime: str = "auto"
) -> ServerConfig:
    runs = (RunConfig(model, initial_weights=weights),)
    return ServerConfig(data_dir, runs, runtime, database_url=database_url(data_dir))


def refuses_to_open(config: ServerConfig, words: str) -> None:
    with pytest.raises(FedferError, match=words), running_service(config):
        pass


def test_options(tmp_path: Path) -> None:
    """Defaults are the settings' own; options reach them."""
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)

    def config_of(arguments: list[str]) -> ServerConfig:
        return serve.config_of(values_of(serve.settings_of(parser.parse_args(arguments), {})))

    plain = ["m.tflite", "--data-dir", "d"]
    assert config_of(plain) == replace(serving_of(Path("m.tflite"), Path("d")), database_url=None)
    given = "--rounds 2 --clients 5 --min-clients 4 --deadline-sec 7 --local-epochs 1 --batch-size 8"
    given += " --learning-rate 0.5 --learning-rate-decay 0.9"
    given += " --holdout drawn --holdout-skip 3 --holdout-take 9 --data-seed 6"
    given += " --holdout-usage test --over-selection 2 --selection-sec 5 --min-devices 6 --seed 9"
    settings = RunSettings(
        rounds=RoundSettings(5, 4, 7, 1, 8, 0.5, 0.9, over_selection=2.0, selection_sec=5.0, min_devices=6),
        num_rounds=2,
        seed=9,
        holdout=HoldoutSource("drawn", 3, 9, 6, "test"),
        keep_updates=True,
    )
    given += " --runtime ai-edge-litert --keep-updates --weights w"
    given += " --max-runs 7 --max-devices 8 --active-sec 90 --body-idle-sec 0.5 --max-concurrent-checks 2"
    assert config_of([*plain, *given.split()]) == ServerConfig(
        Path("d"),
        (RunConfig(Path("m.tflite"), initial_weights=Path("w"), settings=settings),),
        runtime="ai-edge-litert",
        max_runs=7,
        max_devices=8,
        active_sec=90.0,
        body_idle_sec=0.5,
        max_concurrent_checks=2,
    )
    for odd, words in {
        "--clients 4 --min-clients 5": "min-clients is 5",
        "--learning-rate 1e300": "learning-rate is 1e\\+300",
        "--learning-rate nan": "learning-rate is nan",
        "--max-runs 0": "max-runs is 0; expected 1 to 1000",
        "--max-devices 1000001": "max-devices is 1000001; expected 1 to 1000000",
        "--active-sec 0": "active-sec is 0.0; expected a number above 0, at most 1000000000",
        "--active-sec nan": "active-sec is nan",
        "--body-idle-sec -1": "body-idle-sec is -1.0; expected a number above 0, at most 86400",
        "--body-idle-sec inf": "body-idle-sec is inf",
        "--max-concurrent-checks 257": "max-concurrent-checks is 257; expected 1 to 256",
        "--holdout-take 5": "without --holdout",
        "--holdout-skip 5": "without --holdout",
        "--holdout-usage test": "without --holdout",
    }.items():
        with pytest.raises(UsageError, match=words):
            config_of([*plain, *odd.split()])
    with pytest.raises(UsageError, match="--host is empty"):
        listen("", 0)


def test_serving_imports_no_tensorflow() -> None:
    code = (
        "import sys, fedfer.aggregator.app, fedfer.aggregator.opening, fedfer.cli.serve\n"
        "loaded = {name.split('.')[0] for name in sys.modules}\n"
        "sys.exit(' '.join(loaded & {'tensorflow', 'keras', 'tflite_runtime', 'ai_edge_litert'}) or 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
