"""Running an exported `.tflite`: one adapter over tflite-runtime and ai-edge-litert.

Must not share a process with TensorFlow (loading fails beside it). Images enter as float32 in 0..1.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfer.export.checkpoint import Weights
from fedfer.export.contract import (
    SIGNATURES,
    STATE_SIGNATURES,
    Contract,
    load_model_bytes,
    read_contract,
)
from fedfer.export.targets import encode_targets
from fedfer.model.errors import InterpreterError, ModelFileError

# Distribution name -> module that holds `Interpreter`, in the order in which "auto" takes them.
RUNTIMES = {"tflite-runtime": "tflite_runtime.interpreter", "ai-edge-litert": "ai_edge_litert.interpreter"}


@dataclass(frozen=True)
class StepResult:
    """Mean loss and accuracy over one batch, before its step was taken. (Of a regressor `accuracy` is the
    mean absolute error.)"""

    loss: float
    accuracy: float


def available_runtimes() -> list[str]:
    """Installed runtimes, in order of preference."""
    return [name for name, module in RUNTIMES.items() if importlib.util.find_spec(module.split(".")[0])]


class Model:
    """An exported model in an interpreter, with its weights. Not safe for use from two threads."""

    def __init__(self, model: bytes | Path, *, runtime: str = "auto", num_threads: int = 1) -> None:
        """Loads the model. Raises ModelFileError, InterpreterError."""
        self._content = load_model_bytes(model)  # the interpreter reads from it as long as it lives
        self.contract: Contract = read_contract(self._content)
        self.runtime = pick_runtime(runtime)
        self.runtime_version = version(self.runtime)
        try:
            interpreter = import_module(RUNTIMES[self.runtime]).Interpreter(
                model_content=self._content, num_threads=num_threads
            )
            held = [*SIGNATURES, *(set(STATE_SIGNATURES) & interpreter.get_signature_list().keys())]
            self._runners = {name: interpreter.get_signature_runner(name) for name in held}
        except (ValueError, RuntimeError) as error:
            raise InterpreterError(f"{self.runtime} cannot load the model: {error}") from None
        self._interpreter = interpreter

    def restore(self, weights: Weights) -> None:
        """Replaces every weight. Shapes must be the contract's (checkpoints are checked on reading)."""
        self.run("restore", **weights)

    def save(self) -> Weights:
        """Every weight by its name, BatchNorm statistics included."""
        return self.run("save", request=np.zeros(1, np.int32))

    @property
    def can_resume(self) -> bool:
        """Whether `save_state` and `restore_state` hold all that steps change. Not so in a file with
        momentum, Adam or a proximal term that was exported before there were signatures for it."""
        return self._runners.keys() >= set(self.contract.signatures)

    def save_state(self) -> Weights:
        """All that steps change: every weight, and what the optimizer remembers, by the contract's names."""
        if len(self.contract.signatures) == len(SIGNATURES):
            return self.save()
        return self.run("save_state", request=np.zeros(1, np.int32))

    def restore_state(self, base: Weights, state: Weights) -> None:
        """Goes on where `save_state` was called, in training that began by `restore` of `base`."""
        if len(self.contract.signatures) == len(SIGNATURES):
            self.restore(state)
            return
        self.restore(base)
        self.run("restore_state", **state)

    def train(
        self,
        images: NDArray[np.float32],
        labels: NDArray[Any],
        *,
        learning_rate: float,
        seed: int,
        proximal_mu: float = 0.0,
    ) -> StepResult:
        """One optimizer step on images f32[B,H,W,C] in 0..1 and labels [B], or a regressor's targets
        [B,K]; `seed` seeds dropout; a
        `proximal_mu` above 0 needs a file exported for it (FedProx), else raises ModelFileError."""
        inputs = {
            "images": images,
            self.contract.target.name: encode_targets(labels, self.contract.target),
            "learning_rate": np.array([learning_rate], np.float32),
            "seed": np.array([seed], np.int32),
        }
        if self.contract.training.proximal:
            inputs["proximal_mu"] = np.array([proximal_mu], np.float32)
        elif proximal_mu != 0:
            raise ModelFileError(
                f"proximal_mu is {proximal_mu:g}, but the model has no proximal term; "
                "export it with --proximal, or set the server's proximal_mu to 0"
            )
        result = self.run("train", **inputs)
        metric = result[self.contract.training.loss.metric]
        return StepResult(float(result["loss"][0]), float(metric[0]))

    def infer(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities (a regressor's outputs) f32[B,K] of images f32[B,H,W,C] in 0..1."""
        return self.run("infer", images=images)[self.contract.infer_output]

    def run(self, signature: str, **inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Any signature by name. Raises InterpreterError with the runtime's own words."""
        try:
            outputs: dict[str, NDArray[Any]] = self._runners[signature](**inputs)
        except (ValueError, RuntimeError) as error:
            raise InterpreterError(f"{self.runtime} failed in `{signature}`: {error}") from None
        return outputs


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
