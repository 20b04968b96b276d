"""What runs an exported model: its signatures by name, and the calls that everybody makes of them.

One engine is the interpreter that phones have (fedfer.export.runtime), another computes the same in
TensorFlow (fedfer.export.keras_engine). An engine needs a process of its own: an interpreter does not load
beside TensorFlow. Images enter as float32 in 0..1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedfer.export.contract import SIGNATURES, Contract
from fedfer.export.targets import encode_targets
from fedfer.model.errors import ModelFileError

if TYPE_CHECKING:
    from fedfer.export.checkpoint import Weights  # checkpoints' own libraries are not needed to train


@dataclass(frozen=True)
class StepResult:
    """Mean loss and accuracy over one batch, before its step was taken. (Of a regressor `accuracy` is the
    mean absolute error.)"""

    loss: float
    accuracy: float


class Engine(ABC):
    """An exported model that can be trained, with its weights. Not safe for use from two threads.

    `runtime` and `runtime_version` say what computes.
    """

    contract: Contract
    runtime: str
    runtime_version: str

    @abstractmethod
    def run(self, signature: str, **inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Any signature by name. Raises InterpreterError with the runtime's own words."""

    def restore(self, weights: Weights) -> None:
        """Replaces every weight. Shapes must be the contract's (checkpoints are checked on reading)."""
        self.run("restore", **weights)

    def save(self) -> Weights:
        """Every weight by its name, BatchNorm statistics included."""
        return self.run("save", request=np.zeros(1, np.int32))

    @property
    @abstractmethod
    def can_resume(self) -> bool:
        """Whether `save_state` and `restore_state` hold all that steps change."""

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
