"""Fixtures that many tests share. pytest's own process loads neither TensorFlow nor an interpreter."""

import os
from pathlib import Path

import pytest
from exported import export_tiny
from hypothesis import settings
from postgres import DATABASE_VARIABLE, missing

from fedfer.export.isolation import call_isolated

# Other processes share the machine: how long one example takes says nothing.
settings.register_profile("fedfer", deadline=None)
settings.load_profile("fedfer")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In a run on PostgreSQL without one, nothing can be tested: skipped, with the reason."""
    if os.environ.get(DATABASE_VARIABLE) == "postgresql" and missing():
        for item in items:
            item.add_marker(pytest.mark.skip(reason=str(missing())))


@pytest.fixture(scope="session")
def tiny_tflite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small exported CNN with dropout 0.3 (tests/keras_models.py)."""
    path = tmp_path_factory.mktemp("model") / "tiny.tflite"
    call_isolated(export_tiny, path, 0.3)
    return path


@pytest.fixture(scope="session")
def plain_tflite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without dropout."""
    path = tmp_path_factory.mktemp("model") / "plain.tflite"
    call_isolated(export_tiny, path, 0.0)
    return path
