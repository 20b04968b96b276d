"""Flower's deployment engine on the same machine: a SuperLink, K clients, FedAvg, ready-made weights.

Clients are SuperNodes, or threads of a few processes that speak to the SuperLink as SuperNodes do
(`flower_app/nodes.py`).
It gets an environment of its own, made once in a cache directory with `python -m venv` and pip.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any

from processes import cpu_sec, descendants, peak_memory_mb

from fedfer.export.contract import Contract

VERSION = "1.38.*"
APP = Path(__file__).with_name("flower_app")
POLL_SEC, STOP_SEC = 0.2, 15.0
NODE_PROCESSES = 4  # in which clients are threads


@dataclass(frozen=True)
class FlowerRounds:
    """Medians over rounds. `clients`: what they are, supernodes or threads. `updates_per_sec`: updates of a
    round by the time from its first client's return of weights to the average; `round_sec`: from the round's
    beginning to the average. Memory: peaks of the SuperLink and of the ServerApp, added up."""

    clients: str
    num_clients: int
    round_sec: float
    updates_per_sec: float
    server_cpu_sec: float
    fold_sec: float
    peak_mb: float


@dataclass(frozen=True)
class Federation:
    """So many clients, each a SuperNode or a thread."""

    num_clients: int
    supernodes: bool
    num_rounds: int


def environment(cache: Path) -> Path:
    """The folder of Flower's commands; installs it if it is not there yet."""
    place = cache / f"flwr-{VERSION.rstrip('.*')}"
    if not (place / "bin" / "flower-superlink").exists():
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        pip = [str(place / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, f"flwr=={VERSION}", "numpy"], check=True)
    return place / "bin"


def measure_flower(
    bin_: Path, contract: Contract, federation: Federation, directory: Path, timeout_sec: float
) -> FlowerRounds:
    """Runs one federation. Raises RuntimeError when it does not get done."""
    log = directory / "flower.log"
    log.touch()
    with ExitStack() as stack:
        runner = _Runner(bin_, directory, stack)
        link = runner.start(federation)
        shapes = ";".join("x".join(map(str, weight.shape)) or "1" for weight in contract.weights)
        settings = {"num-clients": federation.num_clients, "num-rounds": federation.num_rounds}
        before = cpu_sec(link)
        runner.submit({**settings, "shapes": shapes, "log": str(log)})
        peaks, server_cpu_sec = _watch(log, link, timeout_sec)
        used = cpu_sec(link) - before
    return _result(_events(log), federation, used + server_cpu_sec, sum(peaks.values()))


class _Runner:
    def __init__(self, bin_: Path, directory: Path, stack: ExitStack) -> None:
        self._bin, self._directory, self._stack = bin_, directory, stack
        self._home = directory / "flwr-home"
        self._home.mkdir()
        self._environ = {
            **os.environ,
            "FLWR_HOME": str(self._home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "PATH": f"{bin_}:{os.environ['PATH']}",
        }
        self._environ.pop("PYTHONPATH", None)

    def start(self, federation: Federation) -> int:
        """Starts the SuperLink and its clients; returns the SuperLink's process id."""
        control, fleet = free_port(), free_port()
        link = ["flower-superlink", "--insecure", "--disable-runtime-dependency-installation"]
        pid = self._start([*link, f"--port={control}", f"--fleet-api-address=127.0.0.1:{fleet}"], "superlink")
        wait_for_port(fleet)
        wait_for_port(control)
        address = f'[superlink.bench]\naddress = "127.0.0.1:{control}"\ninsecure = true\n'
        (self._home / "config.toml").write_text(f'[superlink]\ndefault = "bench"\n{address}')
        if federation.supernodes:
            for number in range(federation.num_clients):
                node = ["flower-supernode", "--insecure", f"--superlink=127.0.0.1:{fleet}"]
                self._start([*node, f"--port={free_port()}"], f"supernode-{number}")
        else:
            for number, count in enumerate(shared_out(federation.num_clients)):
                nodes = ["python", str(APP / "nodes.py"), f"127.0.0.1:{fleet}", str(count)]
                self._start(nodes, f"nodes-{number}")
        return pid

    def submit(self, settings: dict[str, Any]) -> None:
        config = self._directory / "run.toml"
        lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
        config.write_text("\n".join(lines) + "\n")
        command = [str(self._bin / "flwr"), "run", str(APP), "bench", "--run-config", str(config)]
        subprocess.run(command, env=self._environ, check=True, capture_output=True, timeout=120)

    def _start(self, command: Sequence[str], name: str) -> int:
        return self._stack.enter_context(
            running(
                [str(self._bin / command[0]), *command[1:]], self._directory / f"{name}.log", self._environ
            )
        )


def shared_out(num_clients: int) -> list[int]:
    """How many clients each process has."""
    num_processes = min(NODE_PROCESSES, num_clients)
    return [(num_clients + number) // num_processes for number in range(num_processes)]


@contextmanager
def running(command: Sequence[str], log: Path, environ: dict[str, str]) -> Iterator[int]:
    """A process with its log, leading a group of its own; all of it is stopped at the end."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environ,
            start_new_session=True,
        )
    family = [process.pid]
    try:
        yield process.pid
    finally:
        family += descendants(process.pid)
        process.send_signal(SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SEC)
        for pid in family:  # those that made a group of their own
            with suppress(ProcessLookupError):
                os.kill(pid, SIGKILL)
        process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def wait_for_port(port: int, timeout_sec: float = 120.0) -> None:
    ends_at = time.monotonic() + timeout_sec
    while time.monotonic() < ends_at:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        time.sleep(POLL_SEC)
    raise RuntimeError(f"nothing listens on port {port} after {timeout_sec:g} s")


def _watch(log: Path, link: int, timeout_sec: float) -> tuple[dict[str, float], float]:
    """Until it is done: peaks in MB of the SuperLink and the ServerApp, and the latter's processor time."""
    ends_at, peaks, used = time.monotonic() + timeout_sec, {"link": 0.0, "app": 0.0}, 0.0
    while time.monotonic() < ends_at:
        events = _events(log)
        peaks["link"] = peak_memory_mb(link)
        pids = [event["pid"] for event in events if event["event"] == "server"]
        with suppress(OSError, ValueError):  # it may have ended
            peaks["app"], used = max(map(peak_memory_mb, pids), default=0.0), sum(map(cpu_sec, pids))
        if any(event["event"] == "done" for event in events):
            return peaks, used
        time.sleep(POLL_SEC)
    raise RuntimeError(f"Flower is not done after {timeout_sec:g} s; its logs are in {log.parent}")


def _events(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]


def _result(events: list[dict[str, Any]], federation: Federation, cpu: float, peak_mb: float) -> FlowerRounds:
    num_clients, num_rounds = federation.num_clients, federation.num_rounds
    replies = [event["replies"] for event in events if event["event"] == "received"]
    if replies != [num_clients] * num_rounds:
        raise RuntimeError(f"Flower averaged {replies} updates; expected {num_clients} in each round")
    times = {(e["event"], e["round"]): e["at"] for e in events if "round" in e}
    sending = sorted(event["at"] for event in events if event["event"] == "sending")
    numbers = range(1, num_rounds + 1)
    begun, received, averaged = (
        [times[name, n] for n in numbers] for name in ("begun", "received", "averaged")
    )
    firsts = [next(at for at in sending if at >= start) for start in begun]
    return FlowerRounds(
        clients="supernodes" if federation.supernodes else "threads",
        num_clients=num_clients,
        round_sec=statistics.median(end - start for start, end in zip(begun, averaged, strict=True)),
        updates_per_sec=num_clients
        / statistics.median(end - first for first, end in zip(firsts, averaged, strict=True)),
        server_cpu_sec=cpu / (num_clients * num_rounds),
        fold_sec=statistics.median(e - s for s, e in zip(received, averaged, strict=True)) / num_clients,
        peak_mb=peak_mb,
    )
