"""Fixtures that many tests share. pytest's own process loads neither TensorFlow nor an interpreter."""

from pathlib import Path

import pytest
from exported import export_tiny

from fedfer.export.isolation import call_isolated


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
