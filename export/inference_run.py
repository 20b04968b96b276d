"""Running an inference-only `.tflite`. Must not share a process with TensorFlow (fedfer.export.isolation)."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedfer.export.contract import load_model_bytes
from fedfer.export.flatbuffer import op_census
from fedfer.export.inference_card import InferenceCard, read_card
from fedfer.export.runtime import RUNTIMES, one_line, pick_runtime, without_information
from fedfer.model.data import LabelledImages, check_fit, to_float
from fedfer.model.errors import InterpreterError, ModelFileError
from fedfer.model.measures import Measures, measure

BATCH_SIZE = 64


class InferenceModel:
    """An inference-only file in an interpreter."""

    def __init__(self, model: bytes | Path, *, runtime: str = "auto", num_threads: int = 1) -> None:
        """Raises ModelFileError, InterpreterError."""
        self._content = load_model_bytes(model)  # the interpreter reads from it as long as it lives
        card = read_card(self._content)
        if card is None:
            raise ModelFileError("not an inference-only .tflite; expected one made by `fedfer inference`")
        self.card: InferenceCard = card
        try:
            with without_information():
                interpreter = import_module(RUNTIMES[pick_runtime(runtime)]).Interpreter(
                    model_content=self._content, num_threads=num_threads
                )
                self._infer = interpreter.get_signature_runner("infer")
        except (ValueError, RuntimeError) as error:
            op_census(self._content)  # which says so of a file that was cut off
            raise InterpreterError(f"the runtime cannot load the model: {one_line(error)}") from None
        self._interpreter = interpreter

    def infer(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Outputs f32[B,K] of images f32[B,H,W,C], scaled as the card says, or of others f32[B,...], tokens
        among them. Raises InterpreterError."""
        try:
            given = images.astype(self.card.input_type)
            outputs: NDArray[np.float32] = self._infer(images=given)[self.card.output]
        except (ValueError, RuntimeError) as error:
            raise InterpreterError(f"the runtime failed in `infer`: {one_line(error)}") from None
        return outputs


def evaluate_inference(model: bytes | Path, data: LabelledImages, *, runtime: str = "auto") -> Measures:
    """Measures of an inference-only file on `data`. Raises FedferError."""
    loaded = InferenceModel(model, runtime=runtime)
    card = loaded.card
    check_fit(data, card.image_shape, len(card.labels))
    batches = [
        loaded.infer(to_float(data.images[at : at + BATCH_SIZE], card.pixel_divisor))
        for at in range(0, len(data), BATCH_SIZE)
    ]
    return measure(np.concatenate(batches), data.labels)
