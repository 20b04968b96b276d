"""The exported file on the phone's instruction set: the aarch64 wheel under qemu, against x86-64.

`.ci/arm64-sysroot` fetches what this needs; without it, or without qemu, the tests are skipped.
"""

import os
import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from arm64_step import steps
from keras_reference import export_named
from numpy.typing import NDArray
from prepared import call_isolated, in_tensorflow

import fedfer
from fedfer.export.check import vector_difference

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
SYSROOT = Path(os.environ.get("FEDFER_ARM64", CACHE / "fedfer" / "arm64"))
QEMU = shutil.which("qemu-aarch64-static")
needs_arm64 = pytest.mark.skipif(
    QEMU is None or not (SYSROOT / "ready").exists() or platform.machine() != "x86_64",
    reason="needs qemu-aarch64-static (Debian: qemu-user-static) and what .ci/arm64-sysroot fetches",
)


def steps_under_qemu(
    model: Path, batch_size: int, num_steps: int, out: Path
) -> dict[str, NDArray[np.float32]]:
    """What tests/arm64_step.py finds on aarch64."""
    assert QEMU is not None
    root = SYSROOT / "root"
    program = [QEMU, "-L", str(root), str(root / "usr/bin/python3.11"), str(HERE / "arm64_step.py")]
    ours = [str(Path(place).parent) for place in fedfer.__path__]
    done = subprocess.run(
        [*program, str(model), str(batch_size), str(num_steps), str(out)],
        env={
            "PYTHONHOME": str(root / "usr"),
            "PYTHONPATH": os.pathsep.join([str(SYSROOT / "site"), *ours]),
            "PYTHONDONTWRITEBYTECODE": "1",  # this interpreter must not leave its own beside ours
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "aarch64\n"), done.stderr
    with np.load(out) as file:
        return {name.replace("|", "/"): file[name] for name in file.files}


def assert_the_same_training(model: Path, batch_size: int, num_steps: int, out: Path) -> None:
    """Losses, probabilities and weights to 1e-4 relative, and not by having stood still."""
    on_arm64 = steps_under_qemu(model, batch_size, num_steps, out)
    on_x86 = call_isolated(steps, model, batch_size, num_steps)
    np.testing.assert_allclose(on_arm64.pop("losses"), losses := on_x86.pop("losses"), rtol=1e-4)
    np.testing.assert_allclose(on_arm64.pop("probabilities"), on_x86.pop("probabilities"), rtol=1e-4)
    assert vector_difference(on_arm64, on_x86) < 1e-4
    assert len(losses) == num_steps
    assert vector_difference(call_isolated(steps, model, batch_size, 0), {**on_x86}) > 1e-3


@needs_arm64
def test_the_tiny_model_trains_on_aarch64_as_on_x86(tiny_tflite: Path, tmp_path: Path) -> None:
    """Three steps with dropout: its masks are the same there."""
    assert_the_same_training(tiny_tflite, 4, 3, tmp_path / "out.npz")


@needs_arm64
@pytest.mark.slow
def test_the_network_trains_on_aarch64_as_on_x86(tmp_path: Path) -> None:
    model = tmp_path / "vgg.tflite"
    in_tensorflow(export_named, "vgg", model)
    assert_the_same_training(model, 4, 1, tmp_path / "out.npz")
