"""Functions that test_isolation calls in processes of their own."""

import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from isolation_helpers import pid_then_sleep
from numpy.typing import NDArray

from fedfer.export.isolation import call_isolated
from fedfer.model.errors import CheckpointError, RefusedError


def add(a: int, *, b: int) -> int:
    return a + b


def process_id() -> int:
    return os.getpid()


def loaded_modules() -> set[str]:
    return set(sys.modules)


def search_path() -> list[str]:
    return sys.path


def doubled(numbers: NDArray[np.float32]) -> NDArray[np.float32]:
    return 2 * numbers


def print_in_every_way() -> str:
    """To stdout and stderr, from Python, from C and from a child of its own."""
    print("python " * 10_000)
    print("python", file=sys.stderr)
    os.write(1, b"descriptor " * 10_000)
    libc = ctypes.CDLL(None)
    libc.puts(b"native")
    libc.fflush(None)
    subprocess.run([sys.executable, "-c", "print('child')"], check=True)
    return "result"


def fail(kind: str) -> None:
    errors: dict[str, Exception] = {
        "value": ValueError("three", 3),
        "checkpoint": CheckpointError("no", code="not_finite"),
        "refused": RefusedError("gone", code="round_over", status=409),
    }
    raise errors[kind]


def die(how: str) -> None:
    print("last words", file=sys.stderr, flush=True)
    if how == "exit":
        os._exit(3)
    if how == "sys.exit":
        sys.exit(4)
    ctypes.string_at(0)  # a segmentation fault


def return_what_cannot_travel() -> Any:
    return lambda: None


def nested(a: int) -> int:
    """Calls from a call: a process below a process."""
    return call_isolated(add, a, b=1)


def meet(own: Path, other: Path) -> int:
    """Returns once another process has come too: only if both run at once."""
    own.touch()
    while not other.exists():
        time.sleep(0.01)
    return os.getpid()


def stay_or_fail(marker: Path, stays: bool) -> None:
    """Stays, or fails once the one that stays is there."""
    if stays:
        pid_then_sleep(marker)
    while not marker.exists():
        time.sleep(0.01)
    fail("value")
