"""What runs tasks on another machine: a bench to which files come as bytes, each version of them once."""

import contextlib
import fcntl
import os
import platform
import secrets
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfer.android_stub.simulation.tasks import Bench, BenchSettings, Task, TaskResult
from fedfer.model.data import LabelledImages
from fedfer.model.errors import FedferError, InterpreterError

Fetch = Callable[[Any], bytes]  # the bytes behind a reference to an object of the cluster
TEMPORARY, PREFIX = Path(tempfile.gettempdir()), "fedfer-ray-"
HOLD_TRIES = 100


def versions() -> dict[str, str]:
    """Of what the same bits depend on: of fedfer and Python, and the kind of processor."""
    return {"fedfer": version("fedfer"), "Python": platform.python_version(), "CPU": platform.machine()}


class RemoteBench:
    """An actor's body. Model, weights and update lie in files of a temporary directory while a task runs, no
    longer; what an actor that was killed in a task left behind goes with the start of the next one."""

    def __init__(
        self, settings: BenchSettings, images: NDArray[np.uint8], labels: NDArray[np.uint8], fetch: Fetch
    ) -> None:
        self._fetch = fetch
        self._bench = Bench(settings, LabelledImages(images, labels))
        drop_left_behind(TEMPORARY)
        self._directory = TEMPORARY / f"{PREFIX}{secrets.token_hex(8)}"
        self._read: set[Path] = set()  # what the bench has in memory

    def versions(self) -> dict[str, str]:
        """Also says that the actor is there."""
        return versions()

    def run(self, task: Task, model: list[Any], weights: list[Any]) -> tuple[TaskResult, bytes] | FedferError:
        """The result and the update's bytes. `model` and `weights` hold one reference each: inside a list it
        stays one, and is fetched only when it is new."""
        killing = task.killing
        if killing is not None:  # a whole path is one of this machine, which it shares with whoever asks
            killing = replace(killing, progress=self._directory / killing.progress)
        local = replace(
            task,
            killing=killing,
            model=self._directory / "model" / task.model.name,
            weights=self._directory / "weights" / task.weights.name,
            output=self._directory / "update",
        )
        try:
            held = _made_and_held(self._directory)
        except InterpreterError as error:
            return error
        try:
            for path, (reference,) in ((local.model, model), (local.weights, weights)):
                if path not in self._read:
                    path.parent.mkdir()
                    path.write_bytes(self._fetch(reference))
            self._read = set()
            result = self._bench.run(local)
            self._read = {local.model, local.weights}
            return result, local.output.read_bytes()
        except FedferError as error:
            return error
        finally:
            shutil.rmtree(self._directory)
            os.close(held)


def drop_left_behind(temporary: Path) -> None:
    """Deletes directories whose actors are no more: those that nobody holds."""
    for path in temporary.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            held = _held(path)
            shutil.rmtree(path, ignore_errors=True)
            os.close(held)


def _made_and_held(path: Path) -> int:
    """Makes the directory and locks it; the descriptor, and with it the lock, ends with this process at the
    latest. Raises InterpreterError."""
    for _ in range(HOLD_TRIES):
        path.mkdir(exist_ok=True)
        with contextlib.suppress(BlockingIOError, FileNotFoundError):  # of one that tidies up just now
            held = _held(path)
            if path.exists():
                return held
            os.close(held)
    raise InterpreterError(
        f"{path} is deleted by another program as often as it is made; expected it to stay"
    )


def _held(path: Path) -> int:
    """Raises OSError if another has it, or it is gone."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
