"""What a simulation runs on: engine, processes, machines. None of it is in a scenario, nor changes which
devices train on what; only another engine or runtime changes bits."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from fedfer.android_stub.simulation.jobs import Executor
from fedfer.android_stub.simulation.pool import ProcessPool
from fedfer.android_stub.simulation.tasks import BenchSettings
from fedfer.export.engines import EngineChoice, EngineName

PROCESSES = 2


@dataclass(frozen=True)
class Means:
    """`runtime` is an installed one, by its name; `keras_model` None, for the engine keras, is what the
    simulation itself exports; `ray` a cluster's address, or `local`. `num_processes` None: as many as the
    cluster has processors, without one PROCESSES."""

    runtime: str
    num_processes: int | None = None
    engine: EngineName = "tflite"
    keras_model: str | None = None
    ray: str | None = None

    @property
    def runtime_name(self) -> str:
        """With its version."""
        return f"{self.runtime} {version(self.runtime)}"

    @property
    def saves_keras(self) -> bool:
        """Whether the export has to leave the Keras model too."""
        return self.engine == "keras" and self.keras_model is None

    def choice(self, saved: Path) -> EngineChoice:
        """The engine; `saved` is where the export leaves a Keras model. Raises UsageError."""
        keras_model = str(saved) if self.saves_keras else self.keras_model
        return EngineChoice(self.engine, self.runtime, keras_model)

    @contextmanager
    def executor(self, settings: BenchSettings) -> Iterator[Executor]:
        """Whoever runs the tasks, gone at the end."""
        with closing(self._executor(settings)) as executor:
            yield executor

    def _executor(self, settings: BenchSettings) -> Executor:
        if self.ray is None:
            return ProcessPool(settings, self.num_processes or PROCESSES)
        from fedfer.android_stub.simulation.ray_pool import RayPool

        return RayPool(settings, self.ray, self.num_processes)
