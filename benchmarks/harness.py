"""What the device harness costs beside the training that it runs, and what a thousand devices take.

`overhead`: a round of `fedfer simulate` with one process, against the bare interpreter's training of the very
same batches (restore, train, save) plus the transfers, which are the same round without training
(benchmarks/aggregation.py, `rounds`). `thousand`: memory of all processes while 1,000 devices train.
Prints tables, writes harness.json and harness.png. Linux.

    .venv/bin/python benchmarks/harness.py --output bench-out
"""

import argparse
import json
import os
import statistics
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from aggregation import measure_fedfer, tables
from processes import descendants, memory_mb

from fedfer.android_stub.simulation.scenario import load_scenario
from fedfer.android_stub.trainer import Seeds, TrainingPlan, train_locally
from fedfer.cli.children import Children
from fedfer.cli.simulated_runs import partition_of, source_of
from fedfer.export.checkpoint import load_checkpoint
from fedfer.export.contract import read_contract
from fedfer.export.isolation import call_isolated
from fedfer.export.runtime import Model
from fedfer.model.sources import load_images

PARTS = ("overhead", "thousand")
RUNTIMES = ("tflite-runtime", "ai-edge-litert")
NUM_ROUNDS, NUM_CLIENTS, LOOK_SEC = 4, 4, 0.5
OVERHEAD = f"""
name = "overhead"
model = {{path = "MODEL"}}
[data]
source = "drawn"
take = {64 * NUM_CLIENTS}
[partition]
num_devices = {NUM_CLIENTS}
[run]
num_rounds = {NUM_ROUNDS}
rounds = {{num_clients = {NUM_CLIENTS}, min_clients = {NUM_CLIENTS}, local_epochs = 1, batch_size = 32}}
"""
THOUSAND = """
name = "thousand"
model = {path = "MODEL"}
[data]
source = "drawn"
take = 8000
[partition]
num_devices = 1000
[run]
num_rounds = 3
rounds = {num_clients = 20, local_epochs = 1, batch_size = 8}
"""


@dataclass(frozen=True)
class Overhead:
    """Seconds, medians over rounds. `ratio`: a round by its training and transfers."""

    runtime: str
    round_sec: float
    training_sec: float
    transfers_sec: float
    ratio: float


@dataclass(frozen=True)
class Thousand:
    """Peak resident memory of all processes while rounds go on (pages that they share count for each), and
    seconds of a round."""

    num_devices: int
    num_processes: int
    peak_mb: float
    round_sec: float


def simulate(scenario: Path, *options: str) -> tuple[dict[str, Any], float]:
    """The record, and the peak memory of all processes once training has begun."""
    place = scenario.with_suffix("")
    peak, over = 0.0, threading.Event()

    def watch(pid: int) -> None:
        nonlocal peak
        while not over.wait(LOOK_SEC):
            found = {pid: "", **descendants(pid)}
            if any("simulated_server" in command for command in found.values()):
                peak = max(peak, sum(_memory_mb(process) for process in found))

    scenario.with_suffix(".logs").mkdir()
    with Children(scenario.with_suffix(".logs")) as children:
        child = children.start("simulate", str(scenario), f"--output={place}", *options)
        watcher = threading.Thread(target=watch, args=(child.pid,))
        watcher.start()
        try:
            child.wait(3600.0)
        finally:
            over.set()
            watcher.join()
    record: dict[str, Any] = json.loads((place / "record.json").read_text())
    return record, peak


def _memory_mb(pid: int) -> float:
    try:
        return memory_mb(pid)
    except (OSError, ValueError):
        return 0.0  # it has just ended


def bare_rounds(file: Path, model: Path, weights: Path, runtime: str, rate: float) -> list[float]:
    """Seconds that the interpreter takes for each round's tasks of a scenario, one after another."""
    scenario = load_scenario(str(file))
    loaded, images = Model(model, runtime=runtime), load_images(**source_of(scenario.data, "", Path()))
    start, wanted = load_checkpoint(weights, loaded.contract), scenario.run["rounds"]
    plan = TrainingPlan(wanted["local_epochs"], wanted["batch_size"], rate)
    taken = []
    for number in range(1, NUM_ROUNDS + 1):
        started = time.perf_counter()
        for device, part in enumerate(partition_of(scenario, images)):
            train_locally(loaded, start, images.take(part), plan, Seeds(scenario.seed, device, number))
        taken.append(time.perf_counter() - started)
    return taken


def measure_overhead(model: Path, runtime: str, scratch: Path) -> Overhead:
    scenario = scratch / f"overhead-{runtime}.toml"
    scenario.write_text(OVERHEAD.replace("MODEL", str(model)))
    record, _ = simulate(scenario, "--processes=1", f"--runtime={runtime}")
    final, contract = scenario.with_suffix("") / "final.safetensors", read_contract(model)
    rate = contract.training.learning_rate
    from harness import bare_rounds as importable  # not by __main__, which the other process does not have

    bare = call_isolated(importable, scenario, model, final, runtime, rate)
    transfers = measure_fedfer(model, contract, NUM_CLIENTS, NUM_ROUNDS, scratch)
    # The first round loads the model in either.
    round_sec = statistics.median(done["wall_sec"] for done in record["rounds"][2:])
    training_sec = statistics.median(bare[1:])
    ratio = round_sec / (training_sec + transfers.round_sec)
    return Overhead(runtime, round_sec, training_sec, transfers.round_sec, ratio)


def measure_thousand(model: Path, scratch: Path) -> Thousand:
    scenario = scratch / "thousand.toml"
    scenario.write_text(THOUSAND.replace("MODEL", str(model)))
    record, peak_mb = simulate(scenario, "--processes=2", "--runtime=ai-edge-litert")
    round_sec = statistics.median(done["wall_sec"] for done in record["rounds"][2:])
    return Thousand(len(record["devices"]), record["num_processes"], peak_mb, round_sec)


def draw(path: Path, rows: list[Overhead]) -> None:
    """A round of the harness beside what it is made of."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 2.4), dpi=120, layout="constrained")
    axes = figure.subplots()
    names = [row.runtime for row in rows]
    axes.barh(names, [row.round_sec for row in rows], height=0.35, color="#0072b2", label="harness")
    below = [place + 0.38 for place in range(len(rows))]
    axes.barh(below, [row.training_sec for row in rows], height=0.35, color="#999999", label="bare training")
    left = [row.training_sec for row in rows]
    axes.barh(
        below,
        [row.transfers_sec for row in rows],
        left=left,
        height=0.35,
        color="#e69f00",
        label="transfers",
    )
    axes.set_xlabel("seconds a round")
    axes.legend()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure")
    parser.add_argument("--output", type=Path, default=Path("bench-out"), help="where results go")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    results: dict[str, list[Any]] = {}
    with TemporaryDirectory(prefix="fedfer-bench-") as scratch:
        model = Path(scratch, "model.tflite")
        with Children(Path(scratch)) as children:
            children.start("export", f"--output={model}").wait(600.0)
        for part in args.parts:
            if part == "overhead":
                for runtime in RUNTIMES:
                    place = Path(scratch, runtime)
                    place.mkdir()
                    results.setdefault(part, []).append(measure_overhead(model, runtime, place))
            else:
                results[part] = [measure_thousand(model, Path(scratch))]
    columns = {part: [asdict(row) for row in rows] for part, rows in results.items()}
    print(tables(results))
    load = {"load_average": os.getloadavg(), "cores": os.cpu_count()}
    (args.output / "harness.json").write_text(json.dumps({**load, **columns}, indent=2) + "\n")
    if "overhead" in results:
        draw(args.output / "harness.png", results["overhead"])


if __name__ == "__main__":
    main()
