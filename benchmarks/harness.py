"""What the device harness costs beside the training that it runs, and what a thousand devices take.

`overhead`: a round of `fedfer simulate` with one process, against the bare interpreter's training of the very
same batches (restore, train, save; nothing else timed) plus the transfers, which are the same round without
training (benchmarks/aggregation.py, `rounds`). Same runtime, one thread each; neither keeps progress, no
holdout set. That both do the same work is checked: the bare rounds, averaged, end in the simulation's
weights bit for bit. The VGG has few long steps, the CNN for MNIST many short ones.
`thousand`: memory of all processes while 1,000 devices take part with the VGG.
Prints tables, writes harness.json and harness.png. Linux.

    .venv/bin/python benchmarks/harness.py --output bench-out
"""

import argparse
import json
import os
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from aggregation import made, measure_fedfer, tables
from processes import descendants, memory_mb, own_memory_mb

from fedfer.aggregator.average import weighted_mean
from fedfer.aggregator.update_reader import WeightedFile
from fedfer.android_stub.simulation.scenario import load_scenario
from fedfer.android_stub.trainer import Seeds, TrainingPlan, epoch_batches
from fedfer.cli.children import Children
from fedfer.cli.simulated_runs import partition_of, source_of
from fedfer.export.checkpoint import Weights, checkpoint_bytes, digest_of
from fedfer.export.contract import Contract, read_contract
from fedfer.export.isolation import call_isolated
from fedfer.export.runtime import Model
from fedfer.model.data import LabelledImages, to_float
from fedfer.model.sources import load_images

PARTS = ("overhead", "thousand")
RUNTIMES = ("tflite-runtime", "ai-edge-litert")
LOOK_SEC = 0.5
OVERHEAD = """
name = "overhead"
model = {{path = "{model}"}}
data = {{source = "{data}"}}
partition = {{num_devices = {clients}}}
[run]
num_rounds = {rounds}
[run.rounds]
num_clients = {clients}
min_clients = {clients}
local_epochs = 1
batch_size = {batch_size}
learning_rate = 0.01
"""
THOUSAND = """
name = "thousand"
model = {{path = "{model}"}}
data = {{source = "{data}"}}
[partition]
num_devices = {devices}
[run]
num_rounds = 3
rounds = {{num_clients = 20, local_epochs = 1, batch_size = 8}}
"""


@dataclass(frozen=True)
class Case:
    """A model (what `fedfer export` takes), and how much each of its clients trains."""

    name: str
    source: str
    clients: int
    examples: int
    batch_size: int


CASES = (
    Case("vgg", "", clients=4, examples=64, batch_size=32),
    Case("mnist cnn", "fedfer.model.mnist:fedavg_cnn", clients=10, examples=600, batch_size=10),
)
NAMES = [case.name for case in CASES]


@dataclass(frozen=True)
class Overhead:
    """Seconds, medians over rounds of all turns. `ratio`: a round by its training and transfers;
    `to_training`: by its training alone."""

    model: str
    runtime: str
    steps: int
    round_sec: float
    training_sec: float
    transfers_sec: float
    ratio: float
    to_training: float


@dataclass(frozen=True)
class Thousand:
    """`peak_mb`: of all processes together, pages that they share counted once; `resident_mb`: counted for
    each. From the start to the end, report included."""

    num_devices: int
    num_processes: int
    peak_mb: float
    resident_mb: float
    round_sec: float
    all_sec: float


def simulate(scenario: Path, *options: str) -> tuple[dict[str, Any], tuple[float, float]]:
    """The record, and peaks of memory of all processes."""
    place = scenario.with_suffix("")
    own = resident = 0.0
    over = threading.Event()

    def watch(pid: int) -> None:
        nonlocal own, resident
        while not over.wait(LOOK_SEC):
            found = [pid, *descendants(pid)]
            own = max(own, sum(map(own_memory_mb, found)))
            resident = max(resident, sum(map(memory_mb, found)))

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
    return record, (own, resident)


def bare_rounds(file: Path, model: Path, runtime: str) -> tuple[list[float], str]:
    """Seconds that the interpreter takes for each round's tasks of a scenario, one after another; and the
    sha256 of what comes of them."""
    scenario, loaded = load_scenario(str(file)), Model(model, runtime=runtime)
    images, wanted = load_images(**source_of(scenario.data, Path())), scenario.run["rounds"]
    plan = TrainingPlan(wanted["local_epochs"], wanted["batch_size"], wanted["learning_rate"])
    weights, taken = loaded.save(), []
    for number in range(1, scenario.run["num_rounds"] + 1):
        trained, round_sec = [], 0.0
        for device, part in enumerate(partition_of(scenario, images)):
            seeds = Seeds(scenario.seed, device, number)
            after, seconds = bare_task(loaded, weights, images.take(part), plan, seeds)
            trained.append((after, len(part)))
            round_sec += seconds
        weights = mean_of(trained, loaded)
        taken.append(round_sec)
    return taken, digest_of(checkpoint_bytes(weights, loaded.contract))


def bare_task(
    model: Model, weights: Weights, examples: LabelledImages, plan: TrainingPlan, seeds: Seeds
) -> tuple[Weights, float]:
    """One task's weights, and seconds in the interpreter."""
    divisor = model.contract.pixel_divisor
    batches = [
        (to_float(batch.images, divisor), batch.labels)
        for epoch in range(plan.local_epochs)
        for places in epoch_batches(len(examples), plan.batch_size, seeds.shuffle(epoch))
        for batch in [examples.take(places)]
    ]
    dropout = [seeds.dropout(step) for step in range(len(batches))]
    started = time.perf_counter()
    model.restore(weights)
    for (images, labels), seed in zip(batches, dropout, strict=True):
        model.train(images, labels, learning_rate=plan.learning_rate, seed=seed)
    after = model.save()
    return after, time.perf_counter() - started


def mean_of(trained: list[tuple[Weights, int]], model: Model) -> Weights:
    """As the aggregator takes it."""
    with TemporaryDirectory(prefix="fedfer-bench-") as scratch:
        files: list[WeightedFile] = []
        for weights, num_examples in trained:
            data = checkpoint_bytes(weights, model.contract)
            path = Path(scratch, f"{len(files)}")
            path.write_bytes(data)
            files.append(WeightedFile(digest_of(data), num_examples, path.name, path))
        return weighted_mean(files, model.contract)


def measure_overhead(
    case: Case, model: Path, runtime: str, args: argparse.Namespace, scratch: Path
) -> Overhead:
    """In turns, so that a machine whose speed changes meets all alike. Raises RuntimeError if the two did not
    do the same."""
    contract = read_contract(model)
    data = noise(scratch / "noise.npz", contract, case.clients * case.examples)
    settings = {"clients": case.clients, "batch_size": case.batch_size, "rounds": args.rounds}
    from harness import bare_rounds as importable  # not by __main__, which the other process does not have

    rounds, training, transfers = [], [], []
    for turn in range(args.turns):
        scenario = scratch / f"overhead-{turn}.toml"
        scenario.write_text(OVERHEAD.format(model=model, data=data, **settings))
        bare, weights = call_isolated(importable, scenario, model, runtime)
        record, _ = simulate(scenario, "--processes=1", f"--runtime={runtime}")
        if weights != record["final"]["weights"]:
            raise RuntimeError(f"the bare rounds ended in {weights}; the simulation in {record['final']}")
        # The first round loads the model in either.
        training += bare[1:]
        rounds += [done["wall_sec"] for done in record["rounds"][2:]]
        transfers.append(measure_fedfer(model, contract, case.clients, args.rounds, scratch).round_sec)
    taken, bare_sec, moved = (statistics.median(each) for each in (rounds, training, transfers))
    return Overhead(
        model=case.name,
        runtime=runtime,
        steps=case.clients * -(-case.examples // case.batch_size),
        round_sec=taken,
        training_sec=bare_sec,
        transfers_sec=moved,
        ratio=taken / (bare_sec + moved),
        to_training=taken / bare_sec,
    )


def noise(path: Path, contract: Contract, count: int) -> Path:
    """So many images for this model, none of which shows anything."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, *contract.image_shape), np.uint8)
    np.savez(path, inputs=images, labels=rng.integers(0, len(contract.labels), count, np.uint8))
    return path


def measure_thousand(model: Path, num_devices: int, scratch: Path) -> Thousand:
    scenario = scratch / "thousand.toml"
    data = noise(scratch / "noise.npz", read_contract(model), 8 * num_devices)
    scenario.write_text(THOUSAND.format(model=model, data=data, devices=num_devices))
    started = time.monotonic()
    record, (own, resident) = simulate(scenario, "--processes=2", "--runtime=ai-edge-litert")
    round_sec = statistics.median(done["wall_sec"] for done in record["rounds"][2:])
    seconds = time.monotonic() - started
    return Thousand(len(record["devices"]), record["num_processes"], own, resident, round_sec, seconds)


def exported(sources: dict[str, str], directory: Path) -> dict[str, Path]:
    """The models by name; a `.tflite` is taken as it is."""
    models = {}
    with Children(directory) as children:
        for name, source in sources.items():
            models[name] = Path(source).resolve()
            if not source.endswith(".tflite"):
                models[name] = directory / f"{name.replace(' ', '-')}.tflite"
                children.start("export", *filter(None, [source]), f"--output={models[name]}").wait(600.0)
    return models


def draw(path: Path, rows: list[Overhead]) -> None:
    """A round of the harness beside what it is made of."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.9 + 0.7 * len(rows)), dpi=120, layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(rows))
    training, transfers = [row.training_sec for row in rows], [row.transfers_sec for row in rows]
    bar = axes.barh
    bar(places - 0.2, [row.round_sec for row in rows], height=0.36, color="#0072b2", label="harness")
    bar(places + 0.2, training, height=0.36, color="#999999", label="bare training")
    bar(places + 0.2, transfers, left=training, height=0.36, color="#e69f00", label="transfers")
    axes.set_yticks(places, [f"{row.model}\n{row.runtime}" for row in rows])
    axes.set_xlabel("seconds a round")
    axes.invert_yaxis()
    axes.legend()
    figure.savefig(path)


def rows_of(
    args: argparse.Namespace, models: dict[str, Path], scratch: Path
) -> Iterator[tuple[str, Overhead | Thousand]]:
    """Part by part, as they come."""
    if "overhead" in args.parts:
        for case in (case for case in CASES if case.name in args.models):
            for runtime in args.runtimes:
                place = made(scratch / f"{case.name} {runtime}".replace(" ", "-"))
                yield "overhead", measure_overhead(case, models[case.name], runtime, args, place)
    if "thousand" in args.parts:
        yield "thousand", measure_thousand(models["vgg"], args.devices, scratch)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure")
    add("--runtimes", nargs="+", choices=RUNTIMES, default=RUNTIMES, help="of `overhead`")
    add("--models", nargs="+", choices=NAMES, default=NAMES, help="of `overhead`")
    add("--turns", type=int, default=3, help="of `overhead`: how often each is run")
    add("--rounds", type=int, default=3, help="of a turn; the first loads the model and does not count")
    add("--devices", type=int, default=1000, help="of `thousand`")
    add("--vgg", default=CASES[0].source, metavar="MODEL", help="exported before, or what to export instead")
    add("--mnist", default=CASES[1].source, metavar="MODEL", help="the same for the CNN for MNIST")
    add("--output", type=Path, default=Path("bench-out"), help="where results go")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    results: dict[str, list[Any]] = {}
    with TemporaryDirectory(prefix="fedfer-bench-") as scratch:
        sources = {CASES[0].name: args.vgg, CASES[1].name: args.mnist}
        models = exported(sources, Path(scratch))
        for part, row in rows_of(args, models, Path(scratch)):
            results.setdefault(part, []).append(row)
            write(args.output, results)
    print(tables(results))


def write(directory: Path, results: dict[str, list[Any]]) -> None:
    """What there is: numbers, and the picture."""
    columns = {part: [asdict(row) for row in rows] for part, rows in results.items()}
    load = {"load_average": os.getloadavg(), "cores": os.cpu_count()}
    (directory / "harness.json").write_text(json.dumps({**load, **columns}, indent=2) + "\n")
    if "overhead" in results:
        draw(directory / "harness.png", results["overhead"])


if __name__ == "__main__":
    main()
