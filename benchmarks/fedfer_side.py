"""The aggregator under load: clients with ready-made weights over plain HTTP, as light as can be."""

import http.client
import json
import multiprocessing
import re
import statistics
import struct
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from multiprocessing.connection import Connection
from typing import Any, Protocol

import numpy as np
from processes import cpu_sec, peak_memory_mb

from fedfer.cli.children import Child, wait_for_line
from fedfer.export.checkpoint import checkpoint_bytes
from fedfer.export.contract import Contract

AVERAGED = re.compile(r"averaged (\d+) updates in ([\d.]+) s")
READ_BYTES = 1 << 18
UPLOADERS = 4
LOAD_PROCESSES = 4


@dataclass(frozen=True)
class Rounds:
    """Medians over rounds. `updates_per_sec`: updates of a round by the time from the first byte of its first
    upload to its new version committed, so received, checked, durable, folded; `round_sec` also has the
    download of the weights in it. Memory is the server's peak."""

    num_clients: int
    round_sec: float
    updates_per_sec: float
    server_cpu_sec: float
    fold_sec: float
    peak_mb: float


@dataclass
class Starts:
    """When the first byte of a round's first upload was sent, by round (seconds since the epoch)."""

    by_round: dict[int, float] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, number: int, at: float) -> None:
        with self.lock:
            self.by_round[number] = min(at, self.by_round.get(number, at))


class Client:
    """One device on one connection; calls block."""

    def __init__(self, host: str, port: int, name: str) -> None:
        self._http = http.client.HTTPConnection(host, port, timeout=600)
        reply = self._call("POST", "/v1/devices", {"name": name})
        self._token = {"Authorization": f"Bearer {reply['token']}"}

    def ask(self) -> dict[str, Any]:
        return self._call("POST", "/v1/work", None)

    def download(self, weights: str) -> int:
        """Reads a version and throws it away; returns its length."""
        self._http.request("GET", f"/v1/weights/{weights}", headers=self._token)
        reply, total = self._http.getresponse(), 0
        while piece := reply.read(READ_BYTES):
            total += len(piece)
        _check(reply, b"")
        return total

    def upload(self, work: dict[str, Any], pieces: Sequence[bytes | memoryview], num_examples: int) -> None:
        """PUTs an update that is these pieces, one after the other."""
        query = f"base_weights={work['weights']}&num_examples={num_examples}&loss=1.0&accuracy=0.5"
        self._http.putrequest("PUT", f"/v1/runs/{work['run']}/rounds/{work['round']}/update?{query}")
        headers = {**self._token, "Content-Type": "application/octet-stream"}
        headers["Content-Length"] = str(sum(map(len, pieces)))
        for name, value in headers.items():
            self._http.putheader(name, value)
        self._http.endheaders()
        for piece in pieces:
            self._http.send(piece)
        reply = self._http.getresponse()
        _check(reply, reply.read())

    def close(self) -> None:
        self._http.close()

    def _call(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        headers = {**getattr(self, "_token", {}), "Content-Type": "application/json"}
        self._http.request(method, path, json.dumps(body) if body else None, headers)
        reply = self._http.getresponse()
        data = reply.read()
        _check(reply, data)
        parsed: dict[str, Any] = json.loads(data)
        return parsed


def _check(reply: http.client.HTTPResponse, data: bytes) -> None:
    if reply.status >= 300:
        raise RuntimeError(f"the server answered {reply.status}: {data[:300]!r}")


class Body:
    """A checkpoint of random weights, whole but for its last number, which makes updates differ."""

    def __init__(self, contract: Contract) -> None:
        rng = np.random.default_rng(0)
        weights = {w.name: rng.random(w.shape, np.float32) for w in contract.weights}
        self._data = memoryview(checkpoint_bytes(weights, contract))

    def of(self, number: float) -> list[bytes | memoryview]:
        return [self._data[:-4], struct.pack("<f", number)]


class Event(Protocol):
    """A threading or a multiprocessing event."""

    def set(self) -> None: ...

    def wait(self) -> bool: ...


class Server:
    """A running `fedfer serve`, asked for what it did."""

    def __init__(self, child: Child) -> None:
        self.child = child
        host, port = wait_for_line(child, "serving ", 120.0).rsplit("//", 1)[1].strip().split(":")
        self.host, self.port = host, int(port)

    def rounds(self) -> list[dict[str, Any]]:
        """Records of all rounds that are over but the initial one."""
        http_ = http.client.HTTPConnection(self.host, self.port, timeout=60)
        http_.request("GET", "/v1/runs/default/rounds")
        records: list[dict[str, Any]] = json.loads(http_.getresponse().read())["rounds"]
        http_.close()
        return [record for record in records if record["round"] and record["closed_at"]]

    def fold_sec(self) -> float:
        """Median over rounds of averaging and writing the version, an update."""
        found = AVERAGED.findall(self.child.log.read_text())
        return statistics.median(float(sec) / int(count) for count, sec in found)


def run_clients(server: Server, num_clients: int, body: Body) -> Starts:
    """A thread for each client, of as many processes as Flower's clients have (flower_app/nodes.py), from
    enrolment until all rounds are over."""
    fork = multiprocessing.get_context("fork")  # they share the body that they send
    ends, children = list[Connection](), list[Any]()
    for first in range(min(LOAD_PROCESSES, num_clients)):
        ours, theirs = fork.Pipe(duplex=False)
        numbers = range(first, num_clients, LOAD_PROCESSES)
        child = fork.Process(
            target=_play, args=(server.host, server.port, numbers, body, theirs), daemon=True
        )
        child.start()
        theirs.close()
        ends.append(ours)
        children.append(child)
    starts = Starts()
    for end in ends:
        for number, at in end.recv().items():  # EOFError: a process failed, and said why
            starts.note(number, at)
    for child in children:
        child.join()
    return starts


def _play(host: str, port: int, numbers: Sequence[int], body: Body, told: Connection) -> None:
    """The body of a process: its clients, then when their uploads of each round began."""
    starts = Starts()

    def live(number: int) -> None:
        client = Client(host, port, f"client-{number}")
        while (work := client.ask())["action"] != "stop":
            if work["action"] == "train":
                client.download(work["weights"])
                starts.note(work["round"], time.time())
                client.upload(work, body.of(work["round"] + number / 1e4), 10 + number % 50)
            else:
                time.sleep(0.05)
        client.close()

    with ThreadPoolExecutor(len(numbers)) as pool:
        for done in [pool.submit(live, number) for number in numbers]:
            done.result()
    told.send(starts.by_round)


def upload_once(host: str, port: int, body: Body, num_clients: int, joined: Event, go: Event) -> None:
    """So many clients join a round; after `go` each sends its update, UPLOADERS of them at a time."""
    clients = [Client(host, port, f"client-{number}") for number in range(num_clients)]
    works = [client.ask() for client in clients]
    for client in clients:
        client.close()  # a server does not keep idle connections for ever; the upload opens another
    joined.set()
    go.wait()

    def send(number: int) -> None:
        clients[number].upload(works[number], body.of(number), 10 + number % 50)
        clients[number].close()

    with ThreadPoolExecutor(UPLOADERS) as pool:
        for done in [pool.submit(send, number) for number in range(num_clients)]:
            done.result()


def measure_rounds(server: Server, num_clients: int, num_rounds: int, body: Body) -> Rounds:
    """The server was started for so many clients and rounds."""
    before = cpu_sec(server.child.pid)
    starts = run_clients(server, num_clients, body)
    used = cpu_sec(server.child.pid) - before
    records = server.rounds()
    spans = [_closed_at(record) - starts.by_round[record["round"]] for record in records]
    return Rounds(
        num_clients=num_clients,
        round_sec=statistics.median(record["duration_sec"] for record in records),
        updates_per_sec=num_clients / statistics.median(spans),
        server_cpu_sec=used / (num_clients * num_rounds),
        fold_sec=server.fold_sec(),
        peak_mb=peak_memory_mb(server.child.pid),
    )


def _closed_at(record: dict[str, Any]) -> float:
    return datetime.fromisoformat(record["closed_at"]).timestamp()
