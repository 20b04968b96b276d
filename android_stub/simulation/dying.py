"""Training tasks whose process is killed in the middle of a step, by SIGKILL, and gone on with in another.

The file in which a task's progress is kept is also the sign that it was begun before: it is killed once.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedfer.android_stub.progress import Position, Progress
from fedfer.export.checkpoint import Weights
from fedfer.export.engine import Engine


@dataclass(frozen=True)
class Killing:
    """The process that runs the task is killed in the step after `after_step` (1, 2, ...); `progress` is
    where the next one finds what it left."""

    after_step: int
    progress: Path


def killing_of(share: float, num_steps: int, progress: Path) -> Killing:
    """After this share (0..1) of the steps: after the first at the earliest, if there are two not after the
    last."""
    return Killing(min(max(1, int(share * num_steps)), max(1, num_steps - 1)), progress)


class DyingProgress(Progress):
    """Keeps steps; then the process dies while it works on the next one."""

    def __init__(
        self, path: Path, task: bytes, shapes: Mapping[str, tuple[int, ...]], after_step: int
    ) -> None:
        super().__init__(path, task, shapes)
        self._after_step, self._is_dying = after_step, False

    def keep(self, position: Position, state: Weights) -> None:
        if self._is_dying:
            threading.Event().wait()  # the signal is on its way: this step is not kept any more
        super().keep(position, state)
        if position.step >= self._after_step:
            self._is_dying = True
            _kill_from_aside()


@contextmanager
def progress_of(
    killing: Killing | None, model: Engine, name: Callable[[], bytes]
) -> Iterator[Progress | None]:
    """Where the progress of the task of this name is kept, if it is one that is killed. With a model that
    cannot be gone on with it is killed in its first step, and begun again. Raises UsageError."""
    if killing is None:
        yield None
        return
    is_first = not killing.progress.exists()
    if not model.can_resume:
        killing.progress.touch()
        if is_first:
            _kill_from_aside()
        yield None
        return
    task, shapes = name(), model.contract.state_shapes
    with (
        DyingProgress(killing.progress, task, shapes, killing.after_step)
        if is_first
        else Progress(killing.progress, task, shapes)
    ) as progress:
        yield progress


def _kill_from_aside() -> None:
    """From another thread: the interpreter works on meanwhile."""
    threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGKILL)).start()
