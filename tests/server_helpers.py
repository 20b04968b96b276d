"""Starting `fedfer serve` as a process of its own on a free port, and speaking the protocol to it."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from fedfer.export.checkpoint import Weights, checkpoint_bytes
from fedfer.export.contract import Contract

START_SEC = 60.0
RUNNER = """
import argparse, sys
from fedfer.cli import serve
from fedfer.model.errors import FedferError
parser = argparse.ArgumentParser()
serve.add_arguments(parser)
try:
    sys.exit(serve.run(parser.parse_args()))
except FedferError as error:
    sys.exit(f"fedfer serve: {error}")
"""
OCTETS = {"Content-Type": "application/octet-stream"}


@dataclass
class Server:
    """A running server process; `lines` is what it logged so far."""

    process: subprocess.Popen[str]
    url: str = ""
    lines: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30)

    def kill(self) -> None:
        """As kill -9 does."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Asks it to stop; returns the exit code."""
        self.process.terminate()
        return self.process.wait(timeout=20)


def start(model: Path, data_dir: Path, *options: str) -> Server:
    """Returns once the server accepts connections."""
    command = [sys.executable, "-c", RUNNER, str(model), "--data-dir", str(data_dir)]
    process = subprocess.Popen(
        [*command, "--port", "0", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    server = Server(process)
    assert process.stdout is not None
    reader = threading.Thread(target=_read_log, args=(server,), daemon=True)
    reader.start()
    line = process.stdout.readline()
    if " on http://" not in line:
        process.kill()
        reader.join()
        raise AssertionError(f"the server did not start: {line!r} {server.lines}")
    server.url = line.split(" on ")[1].strip()
    return server


@contextmanager
def serving(model: Path, data_dir: Path, *options: str) -> Iterator[Server]:
    """A server that is gone at the end."""
    server = start(model, data_dir, *options)
    try:
        yield server
    finally:
        server.kill()
        for stream in (server.process.stdout, server.process.stderr):
            if stream is not None:
                stream.close()


def _read_log(server: Server) -> None:
    assert server.process.stderr is not None
    try:
        for line in server.process.stderr:
            server.lines.append(line.rstrip())
    except ValueError:  # closed while reading
        pass


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

    def enrol(self) -> "Phone":
        reply = self.client.post("/v1/devices", json={"name": self.name})
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
            f"/v1/rounds/{work['round']}/update",
            params={**asked, **query},
            content=body,
            headers={**self.headers, **OCTETS},
        )


def wait_for_round(client: httpx.Client, number: int, phase: str = "done") -> dict[str, Any]:
    """The round's record once it is in that phase."""
    deadline = time.monotonic() + START_SEC
    while time.monotonic() < deadline:
        record: dict[str, Any] = client.get(f"/v1/rounds/{number}").json()
        if record.get("phase") == phase:
            return record
        time.sleep(0.02)
    raise AssertionError(f"round {number} did not become {phase}: {record}")
