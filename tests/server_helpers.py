"""Starting `fedfer serve` as a process of its own on a free port, and speaking the protocol to it."""

import hashlib
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import prepared
from postgres import database_url
from waiting import PATIENCE_SEC, wait_for

from fedfer.export.checkpoint import Weights, checkpoint_bytes
from fedfer.export.contract import Contract

SERVE = [*prepared.COMMAND, "serve"]
UPDATE = "/v1/runs/default/rounds/1/update"  # the path of uploads in round 1
OCTETS = {"Content-Type": "application/octet-stream"}


@dataclass
class Server:
    """A running server process and the file that it logs to."""

    process: prepared.Running
    log: Path
    url: str = ""

    @property
    def lines(self) -> list[str]:
        return self.log.read_text().splitlines()

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=PATIENCE_SEC)

    def kill(self) -> None:
        """As kill -9 does."""
        with self.process:
            self.process.kill()

    def stop(self) -> int:
        """Asks it to stop; returns the exit code."""
        self.process.terminate()
        return self.process.wait(timeout=PATIENCE_SEC)


def start(model: Path, data_dir: Path, *options: str, port: int = 0) -> Server:
    """Returns once the server accepts connections. Its log is beside `data_dir`."""
    command = [*SERVE, str(model), "--data-dir", str(data_dir), "--port", str(port), *database(data_dir)]
    log = data_dir.with_suffix(".log")
    with log.open("a") as errors:
        process = prepared.start([*command, *options], stdout=subprocess.PIPE, stderr=errors)
    server = Server(process, log)
    assert process.stdout is not None
    line = process.stdout.readline()
    if " on http" not in line:
        server.kill()
        raise AssertionError(f"the server did not start: {line!r} {server.lines}")
    server.url = line.split(" on ")[1].strip()
    return server


def database(data_dir: Path) -> list[str]:
    """The option for the database that this test run uses."""
    url = database_url(data_dir)
    return [] if url is None else ["--database-url", url]


@contextmanager
def serving(model: Path, data_dir: Path, *options: str) -> Iterator[Server]:
    """A server that is gone at the end."""
    server = start(model, data_dir, *options)
    try:
        yield server
    finally:
        server.kill()


def synthetic_weights(contract: Contract, seed: int) -> Weights:
    """Random weights that a server takes."""
    rng = np.random.default_rng(seed)
    return {
        w.name: np.abs(rng.standard_normal(w.shape)).astype(np.float32)
        if w.nonnegative
        else np.asarray(rng.standard_normal(w.shape), np.float32)
        for w in contract.weights
    }


def synthetic_update(contract: Contract, seed: int) -> bytes:
    return checkpoint_bytes(synthetic_weights(contract, seed), contract)


@dataclass
class Phone:
    """A device that trains nothing and sends what it is told to."""

    client: httpx.Client
    name: str
    token: str = ""
    device_id: str = ""

    def enrol(self, contract: str | None = None, key: str = "") -> "Phone":
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        asked = {"name": self.name, "contract": contract}
        reply = self.client.post("/v1/devices", json=asked, headers=headers)
        assert reply.status_code == 201, reply.text
        self.token, self.device_id = reply.json()["token"], reply.json()["device_id"]
        return self

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def work(self) -> dict[str, Any]:
        reply = self.client.post("/v1/work", headers=self.headers)
        assert reply.status_code == 200, reply.text
        answer: dict[str, Any] = reply.json()
        return answer

    def upload(
        self, work: dict[str, Any], body: bytes, num_examples: int = 5, **query: Any
    ) -> httpx.Response:
        asked = {"base_weights": work["weights"], "num_examples": num_examples, "loss": 1.5, "accuracy": 0.25}
        return self.client.put(
            f"/v1/runs/{work['run']}/rounds/{work['round']}/update",
            params={**asked, **query},
            content=body,
            headers={**self.headers, **OCTETS},
        )


def wait_for_round(
    client: httpx.Client, number: int, phase: str = "done", run: str = "default"
) -> dict[str, Any]:
    """The round's record once it is in that phase."""
    record: dict[str, Any] = {}

    def reached() -> bool:
        record.update(client.get(f"/v1/runs/{run}/rounds/{number}").json())
        return record.get("phase") == phase

    wait_for(reached)
    return record


def plain_mean(contract: Contract, updates: list[tuple[int, int]]) -> bytes:
    """Checkpoint of the weighted mean of (seed, num_examples), in plain numpy, in their sha256's order."""
    names = {hashlib.sha256(synthetic_update(contract, seed)).hexdigest(): (seed, n) for seed, n in updates}
    ordered = [names[name] for name in sorted(names)]
    total = sum(n for _, n in ordered)
    mean = {}
    for weight in contract.weights:
        acc = np.zeros(weight.shape, np.float64)
        for seed, n in ordered:
            acc += synthetic_weights(contract, seed)[weight.name].astype(np.float64) * n
        mean[weight.name] = (acc / total).astype(np.float32)
    return checkpoint_bytes(mean, contract)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
