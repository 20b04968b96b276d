"""Training steps by each engine that a fleet may run: processor time an example, and peak memory.

Each engine has a process of its own; steps are taken in turns, so that other work on the machine meets all
alike, and medians are told. One thread, batches of noise. Linux.

    .venv/bin/python benchmarks/engine_speed.py mnist.tflite fedfer.model.mnist:fedavg_cnn --batch-size 10
"""

import argparse
import multiprocessing
import statistics
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
from processes import peak_memory_mb

from fedfer.cli.table import format_table
from fedfer.export.engines import EngineChoice, open_engine
from fedfer.export.runtime import available_runtimes

LEARNING_RATE = 0.01


def serve_steps(choice: EngineChoice, model: Path, batch_size: int, steps: Connection) -> None:
    """Takes a step for everything that comes, answering with its processor seconds."""
    engine = open_engine(model, choice)
    contract, rng = engine.contract, np.random.default_rng(0)
    images = rng.random((batch_size, *contract.image_shape), np.float32)
    labels = rng.integers(0, len(contract.labels), batch_size)
    while True:
        started = time.process_time()
        engine.train(images, labels, learning_rate=LEARNING_RATE, seed=0)
        steps.send(time.process_time() - started)
        try:
            steps.recv()
        except EOFError:
            return


@dataclass
class Running:
    """`cpu_sec`: of each step after the first, which sets things up."""

    name: str
    process: BaseProcess
    steps: Connection
    cpu_sec: list[float] = field(default_factory=list)


def start(name: str, choice: EngineChoice, model: Path, batch_size: int) -> Running:
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=serve_steps, args=(choice, model, batch_size, there), daemon=True)
    process.start()
    there.close()
    here.recv()
    return Running(name, process, here)


def measure(running: list[Running], num_steps: int) -> None:
    for _ in range(num_steps):
        for engine in running:
            engine.steps.send(None)
            engine.cpu_sec.append(engine.steps.recv())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="an exported .tflite")
    parser.add_argument("keras_model", help="what it was exported from")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=15, help="of each engine that are measured")
    args = parser.parse_args()
    choices = {runtime: EngineChoice(runtime=runtime) for runtime in available_runtimes()}
    choices["tensorflow"] = EngineChoice("keras", keras_model=args.keras_model)
    running = [start(name, choice, args.model, args.batch_size) for name, choice in choices.items()]
    measure(running, args.steps)
    rows = []
    for engine in running:
        step_ms = 1e3 * statistics.median(engine.cpu_sec)
        memory_mb = peak_memory_mb(engine.process.pid or 0)
        rows.append([engine.name, f"{step_ms:.1f}", f"{step_ms / args.batch_size:.2f}", f"{memory_mb:.0f}"])
        engine.steps.close()
    print(format_table(["engine", "CPU ms a step", "CPU ms an example", "peak MB"], rows))


if __name__ == "__main__":
    main()
