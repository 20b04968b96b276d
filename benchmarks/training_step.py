"""A training step of the whole VGG: the exported file in each runtime beside Keras, PyTorch where it is
installed (or in an environment of its own, with --pytorch), and the usual Flex recipe under TensorFlow 2.17
(the same, with --flex).

Each engine runs in a process of its own that stays; steps are taken in turns, so that other work on the
machine meets all alike. Keras runs four times, with and without XLA, with and without oneDNN (TensorFlow
leaves it off on some processors): ratios are to the fastest of them at a batch size and number of threads,
of median processor time, with two threads of wall-clock. Also: what loading and the first step take, each
process's peak memory, and where the exported file's time goes by operator. Prints what the machine is and
tables, writes training_step.json and training_step.png. Linux.

    .venv/bin/python benchmarks/training_step.py --output bench-out
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from processes import peak_memory_mb
from step_machine import describe, load_average
from step_operators import operator_times

import fedfer.model
from fedfer.cli.table import format_table
from fedfer.export.runtime import available_runtimes

ENGINES = Path(__file__).parent / "step_engines.py"
FLEX_PACKAGES = ("tensorflow-cpu==2.17.*", "numpy<2")
PYTORCH_PACKAGES = ("torch", "numpy")
# By name what TensorFlow is told of oneDNN. By itself Keras uses XLA on GPUs only.
KERAS = {
    "keras, oneDNN": "1",
    "keras, no oneDNN": "0",
    "keras-xla, oneDNN": "1",
    "keras-xla, no oneDNN": "0",
}
FLEX, PYTORCH = "flex", "pytorch"
ONEDNN = "TF_ENABLE_ONEDNN_OPTS"


@dataclass(frozen=True)
class Setting:
    batch_size: int
    num_threads: int


@dataclass(frozen=True)
class Row:
    """Seconds are of a step, medians; `first_sec` is loading and the first step, of processor time."""

    engine: str
    batch_size: int
    num_threads: int
    cpu_sec: float
    wall_sec: float
    ratio: float  # to the fastest Keras, same batch size and threads
    first_sec: float
    peak_mb: float


class Engine:
    """A process that takes a training step for each line it is sent."""

    def __init__(self, python: Path, name: str, model: Path, setting: Setting) -> None:
        self.name = name
        kind = name.split(",")[0]
        sizes = [str(setting.batch_size), str(setting.num_threads)]
        self._process = subprocess.Popen(
            [str(python), str(ENGINES), kind, str(model), *sizes],
            env={**os.environ, ONEDNN: KERAS.get(name, "1")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.first_sec, _ = self._answer()
        self.steps: list[tuple[float, float]] = []

    def step(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        self.steps.append(self._answer())

    def peak_mb(self) -> float:
        return peak_memory_mb(self._process.pid)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> tuple[float, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith("took "):
            raise SystemExit(f"{self.name} stopped; run {ENGINES.name} {self.name} by hand to see why")
        cpu, wall = line.split()[1:]
        return float(cpu), float(wall)


@contextmanager
def engines(names: dict[str, Path], model: Path, setting: Setting) -> Iterator[list[Engine]]:
    running: list[Engine] = []
    try:
        for name, python in names.items():
            running.append(Engine(python, name, model, setting))
        yield running
    finally:
        for engine in running:
            engine.close()


def measure(names: dict[str, Path], model: Path, setting: Setting, repeats: int) -> list[Row]:
    """One row an engine."""
    with engines(names, model, setting) as running:
        for _ in range(repeats):
            for engine in running:
                engine.step()
        times = {
            engine.name: [statistics.median(times) for times in zip(*engine.steps, strict=True)]
            for engine in running
        }
        which = int(setting.num_threads > 1)
        against = min(times[name][which] for name in KERAS if name in times)
        return [
            Row(
                engine=engine.name,
                batch_size=setting.batch_size,
                num_threads=setting.num_threads,
                cpu_sec=times[engine.name][0],
                wall_sec=times[engine.name][1],
                ratio=times[engine.name][which] / against,
                first_sec=engine.first_sec,
                peak_mb=engine.peak_mb(),
            )
            for engine in running
        ]


def environment(directory: Path, packages: Sequence[str]) -> Path:
    """A Python with these packages, installed the first time."""
    python = directory / "bin" / "python"
    if not (directory / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", directory], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        (directory / "ready").touch()
    return python


def convert(model: Path, flex: Path | None) -> None:
    """Makes the file, and with `flex` (a Python) that of the Flex recipe beside it, if missing."""
    if not model.exists():
        subprocess.run([sys.executable, "-m", "fedfer.cli.main", "export", f"--output={model}"], check=True)
    if flex is not None and not model.with_suffix(".flex.tflite").exists():
        # Its environment has no fedfer, whose VGG it converts; where fedfer's links are is nothing else.
        fedfer_at = Path(next(iter(fedfer.model.__path__))).parents[1]
        done = subprocess.run(
            [flex, ENGINES, "flex-convert", model],
            env={**os.environ, "PYTHONPATH": str(fedfer_at)},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"the Flex recipe could not be converted:\n{done.stderr}")


def table(rows: Sequence[Row]) -> str:
    heads = ["engine", "batch", "threads", "CPU s", "wall s", "x Keras", "load + first step", "peak MB"]
    return format_table(heads, [_cells(row) for row in rows])


def _cells(row: Row) -> list[str]:
    seconds = [f"{row.cpu_sec:.3f}", f"{row.wall_sec:.3f}"]
    first = f"{row.first_sec / row.cpu_sec:.2f} steps"
    named = [row.engine, str(row.batch_size), str(row.num_threads)]
    return [*named, *seconds, f"{row.ratio:.2f}", first, f"{row.peak_mb:.0f}"]


def plot(rows: Sequence[Row], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, (times, memory) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    shown = [row for row in rows if row.num_threads == 1]
    labels = [f"{row.engine}, batch {row.batch_size}" for row in shown]
    times.barh(labels, [row.ratio for row in shown])
    times.axvline(1.0, color="black", linewidth=0.8)
    times.set_xlabel("processor time of a step, Keras = 1")
    memory.barh(labels, [row.peak_mb for row in shown])
    memory.set_xlabel("peak memory of the process, MB")
    memory.set_yticklabels([])
    for axes in (times, memory):
        axes.invert_yaxis()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("bench-out"), help="directory for results")
    parser.add_argument("--repeats", type=int, default=7, help="steps of each engine that are measured")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument(
        "--flex", type=Path, metavar="DIR", help="environment of the Flex recipe; made if missing"
    )
    parser.add_argument(
        "--pytorch", type=Path, metavar="DIR", help="environment of PyTorch; made if missing (5 GB)"
    )
    parser.add_argument(
        "--keras", nargs="+", choices=KERAS, default=[*KERAS], metavar="FORM", help="forms of Keras to run"
    )
    parser.add_argument("--model", type=Path, help="an exported VGG; made if not given")
    parser.add_argument("--no-operators", action="store_true", help="leave the profile by operator out")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    names = dict.fromkeys([*args.keras, *available_runtimes()], Path(sys.executable))
    if args.pytorch is not None:
        names[PYTORCH] = environment(args.pytorch, PYTORCH_PACKAGES)
    elif importlib.util.find_spec("torch") is not None:
        names[PYTORCH] = Path(sys.executable)
    if args.flex is not None:
        names[FLEX] = environment(args.flex, FLEX_PACKAGES)
    rows: list[Row] = []
    machine = describe(names)
    print("\n".join(f"{key}: {value}" for key, value in machine.items()), flush=True)
    with TemporaryDirectory() as directory:
        model = args.model or Path(directory) / "vgg.tflite"
        convert(model, names.get(FLEX))
        for num_threads in args.threads:
            for batch_size in args.batch_sizes:
                rows += measure(names, model, Setting(batch_size, num_threads), args.repeats)
                print(table(rows[-len(names) :]), flush=True)
        profiles = {
            runtime: operator_times(model, runtime, max(args.batch_sizes))
            for runtime in available_runtimes()
            if not args.no_operators
        }
    for runtime, times in profiles.items():
        print(f"\nBy operator, each alone, {runtime}, one thread, batch {max(args.batch_sizes)}:")
        print(
            format_table(["operator", "number", "ms"], [[t.name, str(t.count), f"{t.ms:.1f}"] for t in times])
        )
    operators = {name: [asdict(entry) for entry in times] for name, times in profiles.items()}
    machine["load average after"] = load_average()
    result = {"machine": machine, "steps": [asdict(row) for row in rows], "operators": operators}
    (args.output / "training_step.json").write_text(json.dumps(result, indent=1) + "\n")
    plot(rows, args.output / "training_step.png")


if __name__ == "__main__":
    main()
