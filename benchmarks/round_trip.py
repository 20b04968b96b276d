"""What a round costs without training: one `fedfer serve`, K clients with ready-made weights, one machine.

Each client is a thread with the emulated phone's own client code and a cache of its own: in a round it
fetches the global weights (20.4 MB for the VGG) and uploads a new update of the same size. Times are
wall-clock; server and clients share the cores. Writes round_trip.json and round_trip.png. Linux.

    .venv/bin/python benchmarks/round_trip.py --clients 4 16 --rounds 3 --output bench-out
"""

import argparse
import json
import re
import statistics
import struct
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from fedfer.android_stub.backoff import RetryPolicy
from fedfer.android_stub.cache import Cache
from fedfer.android_stub.client import AggregatorClient, Update
from fedfer.android_stub.connection import Connection, Retrying, open_http
from fedfer.android_stub.replies import Stop, Wait
from fedfer.cli.children import Children, wait_for_line
from fedfer.cli.table import format_table
from fedfer.export.checkpoint import checkpoint_bytes, digest_of, max_checkpoint_bytes
from fedfer.export.contract import Contract, read_contract

AVERAGED = re.compile(r"averaged (\d+) updates in ([\d.]+) s")
COLUMNS = ("clients", "round s", "update up s", "weights down s", "folded s an update", "server peak MB")


@dataclass
class Timings:
    """Seconds of single calls, of all clients and rounds."""

    up_sec: list[float] = field(default_factory=list)
    down_sec: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Result:
    """Medians over all rounds and clients; the peak is the server's resident memory (VmHWM)."""

    num_clients: int
    round_sec: float
    up_sec: float
    down_sec: float
    fold_sec: float
    server_peak_mb: float


def run_client(url: str, directory: Path, number: int, contract: Contract, timings: Timings) -> None:
    """One client from enrolment until the server says stop."""
    rng = np.random.default_rng(number)
    weights = {w.name: rng.random(w.shape, np.float32) for w in contract.weights}
    data, path = bytearray(checkpoint_bytes(weights, contract)), directory / "update"
    retrying = Retrying(RetryPolicy(), Random(number), time.monotonic, time.sleep, lambda text: None)
    with open_http(url) as http:
        client = AggregatorClient(Connection(http, retrying), Cache(directory))
        client.enrol(f"client-{number}")
        while not isinstance(work := client.ask_for_work(), Stop):
            if isinstance(work, Wait):
                time.sleep(0.05)
                continue
            started = time.monotonic()
            client.fetch_weights(work.weights, max_checkpoint_bytes(contract))
            timings.down_sec.append(time.monotonic() - started)
            data[-4:] = struct.pack(
                "<f", work.round
            )  # another update, hence another global model, each round
            path.write_bytes(data)
            update = Update(path, digest_of(bytes(data)), work.weights, 10 + number, 1.0, 0.5, 0.0)
            started = time.monotonic()
            client.upload_update(work.run, work.round, update)
            timings.up_sec.append(time.monotonic() - started)


def measure(model: Path, num_clients: int, num_rounds: int, directory: Path) -> Result:
    """Runs one server and its clients. Raises FedferError when the server fails."""
    contract, timings = read_contract(model), Timings()
    with Children(directory) as children:
        options = [f"--clients={num_clients}", f"--rounds={num_rounds}", "--port=0"]
        server = children.start("serve", str(model), f"--data-dir={directory / 'server'}", *options)
        url = wait_for_line(server, "serving ", 60.0).rsplit(" ", 1)[1]
        with ThreadPoolExecutor(num_clients) as pool:
            jobs = [
                pool.submit(run_client, url, directory / f"client-{n}", n, contract, timings)
                for n in range(num_clients)
            ]
        for job in jobs:
            job.result()
        with open_http(url) as http:
            rounds: list[dict[str, Any]] = (
                http.get("/v1/runs/default/rounds").raise_for_status().json()["rounds"][1:]
            )
        peak_mb = peak_memory_mb(server.pid)
    folds = [float(sec) / int(count) for count, sec in AVERAGED.findall(server.log.read_text())]
    return Result(
        num_clients=num_clients,
        round_sec=statistics.median(r["duration_sec"] for r in rounds),
        up_sec=statistics.median(timings.up_sec),
        down_sec=statistics.median(timings.down_sec),
        fold_sec=statistics.median(folds),
        server_peak_mb=peak_mb,
    )


def peak_memory_mb(pid: int) -> float:
    """The most resident memory that a process ever had, in MB of 10^6 bytes. Linux."""
    status = Path(f"/proc/{pid}/status").read_text()
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    return int(kilobytes) * 1024 / 1e6


def table(results: Sequence[Result]) -> str:
    rows = [[f"{value:.3g}" for value in asdict(result).values()] for result in results]
    return format_table(COLUMNS, rows, num_left=0)


def draw(path: Path, results: Sequence[Result]) -> None:
    """Seconds a round and server memory by number of clients."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), dpi=120, layout="constrained")
    clients = [result.num_clients for result in results]
    panels = {"round_sec": "seconds a round", "server_peak_mb": "server peak memory, MB"}
    for axes, (name, label) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        axes.plot(clients, [getattr(result, name) for result in results], marker="o", color="#0072b2")
        axes.set(xlabel="clients a round", ylabel=label, ylim=(0, None))
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, nargs="+", default=[4, 16], help="numbers of clients to try")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each")
    parser.add_argument("--model", type=Path, help="exported .tflite; the VGG is exported if not given")
    parser.add_argument("--output", type=Path, default=Path("bench-out"), help="directory for the results")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="fedfer-bench-") as scratch:
        model = args.model or Path(scratch, "model.tflite")
        if args.model is None:
            with Children(Path(scratch)) as children:
                children.start("export", f"--output={model}").wait(600.0)
        results = []
        for num_clients in args.clients:
            directory = Path(scratch, str(num_clients))
            directory.mkdir()
            results.append(measure(model, num_clients, args.rounds, directory))
    print(table(results))
    (args.output / "round_trip.json").write_text(json.dumps([asdict(r) for r in results], indent=2) + "\n")
    draw(args.output / "round_trip.png", results)


if __name__ == "__main__":
    main()
