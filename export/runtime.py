"""Running an exported `.tflite`: one adapter over tflite-runtime and ai-edge-litert.

Must not share a process with TensorFlow (loading fails beside it). Images enter as float32 in 0..1.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from fedfer.export.contract import SIGNATURES, STATE_SIGNATURES, load_model_bytes, read_contract
from fedfer.export.engine import Engine
from fedfer.export.flatbuffer import op_census
from fedfer.model.errors import InterpreterError

# Distribution name -> module that holds `Interpreter`, in the order in which "auto" takes them.
RUNTIMES = {"tflite-runtime": "tflite_runtime.interpreter", "ai-edge-litert": "ai_edge_litert.interpreter"}

MAX_SAID = 300


def available_runtimes() -> list[str]:
    """Installed runtimes, in order of preference."""
    return [name for name, module in RUNTIMES.items() if importlib.util.find_spec(module.split(".")[0])]


class Model(Engine):
    """An exported model in an interpreter, with its weights. Not safe for use from two threads."""

    def __init__(self, model: bytes | Path, *, runtime: str = "auto", num_threads: int = 1) -> None:
        """Loads the model: a file is mapped, so that processes share its pages, and must not be written to
        as long as this lives. Raises ModelFileError, InterpreterError."""
        content = load_model_bytes(model)
        self.contract = read_contract(content)
        given = {"model_path": str(model)} if isinstance(model, Path) else {"model_content": content}
        self.runtime = pick_runtime(runtime)
        module = RUNTIMES[self.runtime]
        # Not importlib.metadata, which takes 2.5 MB.
        self.runtime_version = str(import_module(module.split(".")[0]).__version__)
        try:
            with without_information():
                interpreter = import_module(module).Interpreter(**given, num_threads=num_threads)
                held = [*SIGNATURES, *(set(STATE_SIGNATURES) & interpreter.get_signature_list().keys())]
                self._runners = {name: interpreter.get_signature_runner(name) for name in held}
        except (ValueError, RuntimeError) as error:
            op_census(content)  # which says so of a file that was cut off
            raise InterpreterError(f"{self.runtime} cannot load the model: {one_line(error)}") from None
        self._interpreter, self._ran = interpreter, set[str]()
        self._content = given.get("model_content")  # the interpreter reads from it as long as it lives

    @property
    def can_resume(self) -> bool:
        """Not so in a file with momentum, Adam or a proximal term that was exported before there were
        signatures for it."""
        return self._runners.keys() >= set(self.contract.signatures)

    def run(self, signature: str, **inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Any signature by name. Raises InterpreterError with the runtime's own words."""
        is_first = signature not in self._ran
        self._ran.add(signature)
        try:
            with without_information() if is_first else nullcontext():
                outputs: dict[str, NDArray[Any]] = self._runners[signature](**inputs)
        except (ValueError, RuntimeError) as error:
            raise InterpreterError(f"{self.runtime} failed in `{signature}`: {one_line(error)}") from None
        return outputs


def one_line(error: Exception) -> str:
    """What a runtime says, some of it a line for each operator: the beginning, in one."""
    return "; ".join(line.strip() for line in str(error).splitlines() if line.strip())[:MAX_SAID]


@contextmanager
def without_information() -> Iterator[None]:
    """Keeps off stderr what a runtime says of itself while it loads a model or runs a signature for the first
    time ("INFO: Created TensorFlow Lite XNNPACK delegate for CPU."), which no variable turns off. All else
    that is written meanwhile passes, at the end."""
    sys.stderr.flush()
    with _redirecting:
        try:
            stderr = os.dup(2)
        except OSError:  # there is none
            yield
            return
        reading, writing = os.pipe()
        os.set_blocking(writing, False)  # more than a pipe holds is dropped
        os.dup2(writing, 2)
        os.close(writing)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            with os.fdopen(reading, "rb") as said:
                for line in said:
                    if not line.startswith(b"INFO: "):
                        os.write(2, line)


_redirecting = threading.Lock()


def pick_runtime(wanted: str) -> str:
    """The installed runtime of this name, or the first for "auto". Raises InterpreterError."""
    installed = available_runtimes()
    if wanted == "auto" and installed:
        return installed[0]
    if wanted in installed:
        return wanted
    raise InterpreterError(
        f"runtime {wanted!r} is not installed (found: {installed or 'none'}); "
        "install tflite-runtime (Python 3.11) or ai-edge-litert"
    )
