"""Calling a function in a fresh process of its own.

The interpreter and TensorFlow cannot share a process, a crash in native code must not take a service
down, and memory taken by one evaluation has to go back to the system. Unlike multiprocessing's spawn, the new
process does not import the caller's main module (which may import TensorFlow). What travels between the two
processes is this program's own: never anything that came over a network.
"""

import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from fedfer.model.errors import InterpreterError

P = ParamSpec("P")
R = TypeVar("R")


def call_isolated(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """`function(*args, **kwargs)` in a new process; what it raises is raised here.

    The function must be importable by name. A process that dies raises InterpreterError.
    """
    with tempfile.TemporaryDirectory(prefix="fedfer-") as directory:
        call, result = Path(directory, "call"), Path(directory, "result")
        call.write_bytes(pickle.dumps(sys.path) + pickle.dumps((function, args, kwargs)))
        command = [sys.executable, "-m", "fedfer.export.isolation", str(call), str(result)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
        if not result.exists():
            last_words = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise InterpreterError(
                f"the process that ran {function.__name__} died with exit code {done.returncode} {last_words}"
            )
        value, error = pickle.loads(result.read_bytes())  # noqa: S301 (written by our own child)
    if error is not None:
        raise error
    outcome: R = value
    return outcome


def _serve_one_call(call: Path, result: Path) -> None:
    with call.open("rb") as file:
        sys.path[:] = pickle.load(file)  # noqa: S301 (written by our own parent)
        function, args, kwargs = pickle.load(file)  # noqa: S301
    outcome: tuple[object, Exception | None]
    try:
        outcome = (function(*args, **kwargs), None)
    except Exception as error:
        outcome = (None, error)
    part = result.with_suffix(".part")
    part.write_bytes(pickle.dumps(outcome))
    part.rename(result)


if __name__ == "__main__":
    _serve_one_call(Path(sys.argv[1]), Path(sys.argv[2]))
