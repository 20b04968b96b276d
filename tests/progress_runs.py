"""Trainings that are killed, as kill -9 does, and gone on with, each in a process of its own; light to
import."""

import math
import os
import random
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedfer.android_stub.progress import Position, Progress
from fedfer.android_stub.simulation.dying import Killing, progress_of
from fedfer.export.checkpoint import Weights
from fedfer.export.contract import Contract
from fedfer.model.data import LabelledImages

TASK = bytes(range(32))
SHAPES = {"kernel": (300, 41), "scalar": (), "bias": (7,)}


def filled(value: float) -> Weights:
    return {name: np.full(shape, value, np.float32) for name, shape in SHAPES.items()}


def keep_until_killed(path: Path, told: int) -> None:
    """Steps 1, 2, ... filled with their number; says each when it is kept."""
    with Progress(path, TASK, SHAPES) as progress:
        for step in range(1, 1 << 20):
            progress.keep(Position(step, step / 2, step / 4, step / 8), filled(step))
            os.pwrite(told, step.to_bytes(8, "little"), 0)


def kill_writers(directory: Path, num_kills: int) -> list[tuple[int, int, bool]]:
    """For each of so many processes killed at a random moment: the last step that it said, the step found
    afterwards, and whether everything there is of that step."""
    rng, found = random.Random(0), []
    for number in range(num_kills):
        path = directory / f"{number}.progress"
        told = os.open(directory / f"{number}.told", os.O_RDWR | os.O_CREAT)
        child = os.fork()
        if child == 0:
            keep_until_killed(path, told)
        while not os.pread(told, 8, 0):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        said = int.from_bytes(os.pread(told, 8, 0), "little")
        os.close(told)
        with Progress(path, TASK, SHAPES) as progress:
            kept = progress.last()
        assert kept is not None
        position, state = kept
        whole = position == Position(position.step, position.step / 2, position.step / 4, position.step / 8)
        whole &= all(np.array_equal(state[name], filled(position.step)[name]) for name in SHAPES)
        found.append((said, position.step, whole))
    return found


@dataclass(frozen=True)
class Killed:
    """A training that is killed in the step after `kill_after`; 0 for one that is left alone."""

    model: Path
    runtime: str
    progress: Path
    kill_after: int = 0
    proximal_mu: float = 0.0


class KillingProgress(Progress):
    """Keeps steps, and has the process killed from another thread while it works on the next one; should that
    be done before the signal comes, it is not kept."""

    kill_after = 0

    def keep(self, position: Position, state: Weights) -> None:
        if 0 < self.kill_after < position.step:
            threading.Event().wait()
        super().keep(position, state)
        if position.step == self.kill_after:
            threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGKILL)).start()


class SlowProgress(Progress):
    """Keeping a step takes far longer than the step."""

    kept: list[int]

    def keep(self, position: Position, state: Weights) -> None:
        self.kept.append(position.step)
        time.sleep(0.05)


def steps_kept_slowly(model_path: Path, progress_path: Path) -> list[int]:
    """Which of 36 steps are kept where that is dear."""
    from fedfer.android_stub.trainer import Seeds, TrainingPlan, train_locally
    from fedfer.export.runtime import Model

    model = Model(model_path)
    with SlowProgress(progress_path, TASK, model.contract.state_shapes) as progress:
        progress.kept = []
        examples, plan = noise_for(model.contract), TrainingPlan(6, 4, 0.02)
        train_locally(model, model.save(), examples, plan, Seeds(1, 2, 3), progress)
        return progress.kept


def train(case: Killed) -> tuple[Weights, float, float, int, int]:
    """Weights, loss, accuracy, steps, and the step that it went on from."""
    from fedfer.android_stub import trainer
    from fedfer.android_stub.trainer import Seeds, TrainingPlan, task_name, train_locally
    from fedfer.export.runtime import Model

    trainer.MAX_KEEPING_SHARE = math.inf  # every step, however small
    model = Model(case.model, runtime=case.runtime)
    examples = noise_for(model.contract)
    plan, seeds = TrainingPlan(6, 4, 0.02, case.proximal_mu), Seeds(1, 2, 3)
    task = task_name("0" * 64, case.runtime, "1" * 64, plan, seeds, examples)
    with KillingProgress(case.progress, task, model.contract.state_shapes) as progress:
        progress.kill_after = case.kill_after
        result = train_locally(model, model.save(), examples, plan, seeds, progress)
    return result.weights, result.loss, result.accuracy, result.num_steps, result.resumed_at


def train_as_planned(model_path: Path, killing: Killing | None) -> tuple[Weights, int]:
    """A task of a simulation, killed in a step unless it was before: weights, and the step gone on from."""
    from fedfer.android_stub.trainer import Seeds, TrainingPlan, train_locally
    from fedfer.export.runtime import Model

    model = Model(model_path)
    examples, plan = noise_for(model.contract), TrainingPlan(6, 4, 0.02)
    with progress_of(killing, model, lambda: TASK) as progress:
        result = train_locally(model, model.save(), examples, plan, Seeds(1, 2, 3), progress)
    return result.weights, result.resumed_at


def noise_for(contract: Contract) -> LabelledImages:
    """23 images of noise with random labels, as this model takes them."""
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (23, *contract.image_shape), np.uint8)
    return LabelledImages(images, rng.integers(0, len(contract.labels), 23, np.uint8))
