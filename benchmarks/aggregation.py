"""The aggregator's speed and memory, side by side with Flower's deployment engine, on one machine.

No training: clients fetch the global weights and send ready-made ones, over loopback; for the VGG 20.4 MB
either way. Parts: `rounds` (both), `fold` (averaging against a copy in memory), `polling` (asking for work
while uploads run), `memory` (of one round with many updates; takes disk space of as many checkpoints).
Prints tables, writes aggregation.json and aggregation.png, anew after each step. Linux.

    .venv/bin/python benchmarks/aggregation.py --output bench-out
    .venv/bin/python benchmarks/aggregation.py --parts rounds fold polling --output bench-out  # 20 minutes
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from fedfer_side import Body, Rounds, Server, measure_rounds, upload_once
from flower_side import Federation, FlowerRounds, environment, measure_flower
from numpy.typing import NDArray
from polling import Polling, poll
from processes import available_mb, cpu_sec, peak_memory_mb

from fedfer.aggregator.average import weighted_mean
from fedfer.aggregator.blobs import file_sha256
from fedfer.aggregator.update_reader import WeightedFile
from fedfer.cli.children import Children
from fedfer.cli.table import format_table
from fedfer.export.contract import Contract, read_contract

PARTS = ("rounds", "fold", "polling", "memory")
FOLD_FILES, FOLD_REPEATS = 16, 9
SUPERNODE_MB, THREAD_MB = 400.0, 20.0  # of a client of Flower's: three processes, or a thread
COPIES = 6  # of its weights, in it and in the server


@dataclass(frozen=True)
class Fold:
    """Milliseconds for one update in the page cache, by the clock and of the processor, the least of several
    runs: folding it with equal and with different numbers of examples (files opened, result written to
    memory); apart from that the check of its sha256 before. To compare with: copying as many bytes from main
    memory to main memory (as many buffers as there are updates to as many others); those buffers to one,
    which stays in the cache; one warm buffer to that one."""

    copy_ms: float
    copy_cpu_ms: float
    gather_ms: float
    gather_cpu_ms: float
    warm_ms: float
    warm_cpu_ms: float
    hash_ms: float
    hash_cpu_ms: float
    equal_ms: float
    equal_cpu_ms: float
    different_ms: float
    different_cpu_ms: float


@dataclass(frozen=True)
class Intake:
    """One round with so many updates. `rest_mb` is the server's peak before the first upload."""

    num_updates: int
    seconds: float
    server_cpu_sec: float
    rest_mb: float
    peak_mb: float


@dataclass(frozen=True)
class Missing:
    """A size at which Flower was not measured, and why."""

    clients: str
    num_clients: int
    reason: str


Results = dict[str, list[Any]]


@contextmanager
def serving(model: Path, directory: Path, *options: str) -> Iterator[Server]:
    directory.mkdir()
    with Children(directory) as children:
        data_dir = f"--data-dir={directory / 'server'}"
        yield Server(children.start("serve", str(model), data_dir, "--port=0", *options))


def measure_fold(contract: Contract, directory: Path) -> Fold:
    """Interleaved, so that other work on the machine meets all alike."""
    body, paths = Body(contract), []
    for number in range(FOLD_FILES):
        paths.append(directory / f"update-{number}")
        paths[-1].write_bytes(b"".join(body.of(number)))
    source = np.ones(contract.weights_bytes // 4, np.float32)  # zeros would be one page, read again and again
    target = np.ones_like(source)

    many, others = ([np.ones_like(source) for _ in paths] for _ in range(2))

    def copy(sources: list[NDArray[np.float32]], targets: list[NDArray[np.float32]]) -> None:
        for each, to in zip(sources, targets, strict=True):
            np.copyto(to, each)

    def check() -> None:
        for path in paths:
            file_sha256(path)

    def fold(step: int) -> Callable[[], None]:
        files = [WeightedFile(p.name, 10 + i * step, "", p) for i, p in enumerate(paths)]
        return lambda: _discard(weighted_mean(files, contract))

    works: tuple[Callable[[], None], ...] = (
        lambda: copy(many, others),
        lambda: copy(many, [target] * FOLD_FILES),
        lambda: copy([source] * FOLD_FILES, [target] * FOLD_FILES),
        check,
        fold(0),
        fold(1),
    )
    taken: list[list[tuple[float, float]]] = [[] for _ in works]
    for _ in range(FOLD_REPEATS):
        for work, times in zip(works, taken, strict=True):
            started, cpu_started = time.perf_counter(), time.process_time()
            work()
            times.append((time.perf_counter() - started, time.process_time() - cpu_started))
    least = [min(each) for times in taken for each in zip(*times, strict=True)]
    return Fold(*(sec * 1e3 / FOLD_FILES for sec in least))


def _discard(weights: object) -> None:
    del weights


def measure_polling(
    model: Path, contract: Contract, num_devices: int, num_uploads: int, directory: Path
) -> Polling:
    """A process of its own uploads, four updates at a time, in a round that has few places for the others
    (three for ten updates, by over-selection); they ask for work until the last update is in."""
    options = (
        f"--clients={num_uploads}",
        "--rounds=1",
        f"--address-connections={num_devices + num_uploads + 64}",
    )
    with serving(model, directory, *options) as server:
        spawn = multiprocessing.get_context("spawn")
        joined, go = spawn.Event(), spawn.Event()
        arguments = (server.host, server.port, model, num_uploads, joined, go)
        uploads = spawn.Process(target=_upload, args=arguments, daemon=True)
        uploads.start()
        joined.wait(120.0)
        is_over = lambda: not uploads.is_alive()  # noqa: E731
        polling = asyncio.run(poll(server.host, server.port, num_devices, go.set, is_over))
        uploads.join()
        if uploads.exitcode:
            raise RuntimeError("the uploading process failed")
        return polling


def _upload(host: str, port: int, model: Path, num_uploads: int, joined: Any, go: Any) -> None:
    upload_once(host, port, Body(read_contract(model)), num_uploads, joined, go)


def measure_intake(model: Path, contract: Contract, num_updates: int, directory: Path) -> Intake:
    """From the first upload to the new version, of a round that so many updates close."""
    options = (f"--clients={num_updates}", "--rounds=1", "--deadline-sec=36000")
    connections = f"--address-connections={num_updates + 64}"
    with serving(model, directory, *options, connections) as server:
        pid, joined, go = server.child.pid, threading.Event(), threading.Event()
        arguments = (server.host, server.port, Body(contract), num_updates, joined, go)
        with ThreadPoolExecutor(1) as pool:
            uploads = pool.submit(upload_once, *arguments)
            joined.wait(300.0)
            rest_mb, cpu_before, started = peak_memory_mb(pid), cpu_sec(pid), time.monotonic()
            go.set()
            uploads.result()
        while not server.rounds():
            time.sleep(0.1)
        seconds, used = time.monotonic() - started, cpu_sec(pid) - cpu_before
        return Intake(num_updates, seconds, used / num_updates, rest_mb, peak_memory_mb(pid))


def run_parts(
    args: argparse.Namespace, model: Path, scratch: Path, keep: Callable[[Results], None]
) -> Results:
    """Results by part, in the order of the tables; `keep` is called with what there is after each step."""
    contract, results = read_contract(model), Results()

    def note(part: str, row: Any) -> None:
        results.setdefault(part, []).append(row)
        keep(results)

    if "rounds" in args.parts:
        for size in sorted({*args.clients, *args.flower_clients, *args.flower_supernodes}):
            if size in args.clients:
                note("fedfer", measure_fedfer(model, contract, size, args.rounds, scratch))
            for supernodes, sizes in ((False, args.flower_clients), (True, args.flower_supernodes)):
                if size in sizes:
                    federation = Federation(size, supernodes, args.flower_rounds)
                    flower = try_flower(args, contract, federation, scratch)
                    note("flower" if isinstance(flower, FlowerRounds) else "flower_missing", flower)
    if "fold" in args.parts:
        note("fold", measure_fold(contract, made(scratch / "fold")))
        shutil.rmtree(scratch / "fold")
    if "polling" in args.parts:
        place = scratch / "polling"
        note("polling", measure_polling(model, contract, args.pollers, args.polling_uploads, place))
        shutil.rmtree(place)
    if "memory" in args.parts:
        for count in args.updates:
            place = scratch / f"memory-{count}"
            note("memory", measure_intake(model, contract, count, place))
            shutil.rmtree(place)
    return results


def try_flower(
    args: argparse.Namespace, contract: Contract, federation: Federation, scratch: Path
) -> FlowerRounds | Missing:
    """A federation that does not get done is told of, and does not take the other results with it."""
    num_clients, clients = federation.num_clients, "supernodes" if federation.supernodes else "threads"
    client_mb = SUPERNODE_MB if federation.supernodes else THREAD_MB
    needed_mb = num_clients * (client_mb + COPIES * contract.weights_bytes / 1e6)
    if available_mb() < needed_mb:
        reason = f"about {needed_mb:,.0f} MB of memory needed, {available_mb():,.0f} available"
        return Missing(clients, num_clients, reason)
    place = made(scratch / f"flower-{num_clients}-{clients}")
    try:
        commands = environment(args.cache)
        return measure_flower(commands, contract, federation, place, args.timeout_sec)
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        return Missing(clients, num_clients, str(error))
    finally:
        shutil.rmtree(place, ignore_errors=True)


def measure_fedfer(
    model: Path, contract: Contract, num_clients: int, num_rounds: int, scratch: Path
) -> Rounds:
    options = (f"--clients={num_clients}", f"--rounds={num_rounds}")
    place = scratch / f"fedfer-{num_clients}"
    with serving(model, place, *options) as server:
        measured = measure_rounds(server, num_clients, num_rounds, Body(contract))
    shutil.rmtree(place)
    return measured


def made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def tables(results: dict[str, list[Any]]) -> str:
    """A table a part, a column a field."""
    texts = []
    for name, rows in results.items():
        columns = [field.replace("_", " ") for field in asdict(rows[0])]
        cells = [[_cell(value) for value in asdict(row).values()] for row in rows]
        texts.append(f"{name}\n{format_table(columns, cells, num_left=0)}")
    return "\n\n".join(texts)


def _cell(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


def draw(path: Path, results: dict[str, list[Any]]) -> None:
    """Updates a second and server memory by number of clients, of both."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), dpi=120, layout="constrained")
    panels = {"updates_per_sec": "updates a second", "peak_mb": "server's peak memory, MB"}
    for axes, (name, label) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for side, colour in (("fedfer", "#0072b2"), ("flower", "#d55e00")):
            rows = [row for row in results.get(side, []) if getattr(row, "clients", "") != "supernodes"]
            clients, values = [r.num_clients for r in rows], [getattr(r, name) for r in rows]
            axes.plot(clients, values, marker="o", color=colour, label=side)
        axes.set(xlabel="clients a round", ylabel=label, xscale="log", yscale="log")
        axes.legend()
    figure.savefig(path)


def main() -> None:
    args = parse_arguments()
    args.output.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="fedfer-bench-", dir=args.scratch) as scratch:
        model = args.model or Path(scratch, "model.tflite")
        if args.model is None:
            with Children(Path(scratch)) as children:
                children.start("export", f"--output={model}").wait(600.0)
        results = run_parts(args, model, Path(scratch), lambda so_far: write(args.output, so_far))
    print(tables(results))


def write(directory: Path, results: Results) -> None:
    """What there is: numbers, and the picture."""
    plain = {name: [asdict(row) for row in rows] for name, rows in results.items()}
    load = {"load_average": os.getloadavg(), "cores": os.cpu_count()}
    (directory / "aggregation.json").write_text(json.dumps({**load, **plain}, indent=2) + "\n")
    if "fedfer" in results:
        draw(directory / "aggregation.png", results)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure; all if not given")
    add("--clients", type=int, nargs="+", default=[4, 16, 32, 64], help="clients a round")
    add(
        "--flower-clients",
        type=int,
        nargs="*",
        default=[4, 16, 32, 64],
        help="the same for Flower, its clients as threads, as far as memory goes; none leaves it out",
    )
    add(
        "--flower-supernodes",
        type=int,
        nargs="*",
        default=[4],
        help="the same, each client a SuperNode, which is three processes of 0.5 GB together",
    )
    add("--rounds", type=int, default=3, help="rounds")
    add("--flower-rounds", type=int, default=2, help="the same for Flower, whose rounds take much longer")
    add("--pollers", type=int, default=500, help="devices that ask for work")
    add("--polling-uploads", type=int, default=100, help="updates that come in meanwhile")
    add("--updates", type=int, nargs="+", default=[100, 1000], help="updates of one round, for its memory")
    add("--model", type=Path, help="exported .tflite; the VGG is exported if not given")
    add(
        "--cache", type=Path, default=Path.home() / ".cache" / "fedfer-bench", help="for Flower's environment"
    )
    add("--scratch", type=Path, help="directory for the servers' data, by default the system's")
    add("--timeout-sec", type=float, default=1800.0, help="how long a federation of Flower's may take")
    add("--output", type=Path, default=Path("bench-out"), help="directory for the results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
