"""Training tasks: what one device does between its download and its upload, as a pure function of files.

A task names the served `.tflite` and a version of its weights, the images (places in the fleet's data set),
the plan and the seeds; its result is a checkpoint file. Whoever runs it, however often, gets the same bytes.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedfer.android_stub.simulation.attacks import (
    AttackSettings,
    poisoned_examples,
    poisoned_weights,
)
from fedfer.android_stub.simulation.dying import Killing, progress_of
from fedfer.android_stub.trainer import Seeds, TrainingPlan, task_name, train_locally
from fedfer.export.checkpoint import Weights, checkpoint_bytes, digest_of, load_checkpoint
from fedfer.export.engine import Engine
from fedfer.export.engines import EngineChoice, open_engine
from fedfer.model.data import LabelledImages
from fedfer.model.errors import ModelFileError


@dataclass(frozen=True)
class Task:
    """One device's training in one round; `output` is where the trained checkpoint goes."""

    device: str
    model: Path
    contract: str  # digest, as the server named it
    weights: Path
    indices: NDArray[np.intp]
    plan: TrainingPlan
    seeds: Seeds
    output: Path
    attack: AttackSettings | None = None
    killing: Killing | None = None


@dataclass(frozen=True)
class TaskResult:
    """The update as it lies in the task's output file; `train_sec` is real time."""

    sha256: str
    num_bytes: int
    num_examples: int
    loss: float
    accuracy: float
    train_sec: float


@dataclass(frozen=True)
class BenchSettings:
    """What every process that runs tasks is told. `data`: directory with images.npy and labels.npy."""

    data: Path
    engine: EngineChoice


class Bench:
    """Runs tasks one after another; holds one engine, one checkpoint, and the mapped images."""

    def __init__(self, settings: BenchSettings, data: LabelledImages | None = None) -> None:
        """`data`: the images, where they are not in a directory of this machine."""
        self._settings = settings
        self._data = load_data(settings.data) if data is None else data
        self._model: tuple[Path, Engine] | None = None
        self._weights: tuple[Path, Weights] | None = None

    def run(self, task: Task) -> TaskResult:
        """Raises FedferError."""
        model = self._loaded(task)
        start, examples = self._start(task, model), self._data.take(task.indices)
        if task.attack is not None:
            examples = poisoned_examples(task.attack, examples, len(model.contract.labels))
        with progress_of(task.killing, model, lambda: named(task, model, examples)) as progress:
            result = train_locally(model, start, examples, task.plan, task.seeds, progress)
        trained = result.weights
        if task.attack is not None:
            seeds = (task.seeds.fleet, task.seeds.device, task.seeds.round)
            trained = poisoned_weights(task.attack, start, trained, model.contract.weights, seeds)
        data = checkpoint_bytes(trained, model.contract)
        task.output.write_bytes(data)
        return TaskResult(
            digest_of(data), len(data), len(examples), result.loss, result.accuracy, result.train_sec
        )

    def _loaded(self, task: Task) -> Engine:
        if self._model is None or self._model[0] != task.model:
            self._model = self._weights = None  # before the next is loaded: memory of one
            loaded = open_engine(task.model, self._settings.engine)
            if loaded.contract.digest != task.contract:
                raise ModelFileError(
                    f"{task.model} has contract {loaded.contract.digest}; expected {task.contract}"
                )
            self._model = (task.model, loaded)
        return self._model[1]

    def _start(self, task: Task, model: Engine) -> Weights:
        if self._weights is None or self._weights[0] != task.weights:
            self._weights = (task.weights, load_checkpoint(task.weights, model.contract))
        return self._weights[1]


def named(task: Task, model: Engine, examples: LabelledImages) -> bytes:
    """The task's name, by which its progress is found; files of a cache are named by their content."""
    runtime = f"{model.runtime} {model.runtime_version}"
    return task_name(task.model.name, runtime, task.weights.name, task.plan, task.seeds, examples)


def store_data(images: LabelledImages, directory: Path) -> None:
    """Puts images where the processes of a fleet map them, so that they are in memory once."""
    directory.mkdir(parents=True, exist_ok=True)
    np.save(directory / "images.npy", images.images, allow_pickle=False)
    np.save(directory / "labels.npy", images.labels, allow_pickle=False)


def load_data(directory: Path) -> LabelledImages:
    """The images, mapped and not read."""
    images = np.load(directory / "images.npy", mmap_mode="r", allow_pickle=False)
    return LabelledImages(images, np.load(directory / "labels.npy", allow_pickle=False))
