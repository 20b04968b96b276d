"""Fixtures that many tests share. pytest's own process loads neither TensorFlow nor an interpreter."""

import fcntl
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from exported import export_tiny
from hypothesis import settings
from postgres import DATABASE_VARIABLE, missing
from prepared import in_tensorflow

# Other processes share the machine: how long one example takes says nothing.
settings.register_profile("fedfer", deadline=None)
settings.load_profile("fedfer")

# A shell that runs the tests in the background has them ignore Ctrl-C, nohup the hangup, and so would all
# that they start.
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)

# Files that take longest are begun first: a processor that has one of them last works alone in the end.
LONGEST = (
    *("test_keras_engine", "test_whole_models", "test_optimizers", "test_layers", "test_gradients"),
    *("test_storage_faults", "test_serve_access", "test_simulate_faults", "test_simulate", "test_npz"),
    *("test_train", "test_fuzz", "test_openapi_fuzz", "test_export_cli", "test_devices_killed"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first. In a run on PostgreSQL without one nothing can be tested: skipped, and why."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONGEST)))
    if os.environ.get(DATABASE_VARIABLE) == "postgresql" and missing():
        for item in items:
            item.add_marker(pytest.mark.skip(reason=str(missing())))


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A file that all processes of this test run share, made by the one that needs it first."""
    folder = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    path = folder / name
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            unfinished = path.with_suffix(".part")
            make(unfinished)
            unfinished.rename(path)
    return path


@pytest.fixture(scope="session")
def tiny_tflite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small exported CNN with dropout 0.3 (tests/keras_models.py)."""
    return made_once(tmp_path_factory, "tiny.tflite", lambda path: in_tensorflow(export_tiny, path, 0.3))


@pytest.fixture(scope="session")
def plain_tflite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without dropout."""
    return made_once(tmp_path_factory, "plain.tflite", lambda path: in_tensorflow(export_tiny, path, 0.0))
