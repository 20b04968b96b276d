"""Inference-only files of the tiny model, for `call_isolated`; TensorFlow comes inside."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def export_small(folder: Path) -> NDArray[np.float32]:
    """Writes float32, float16, int8 of the same weights; returns Keras's probabilities of 40 faces."""
    from keras_models import LABELS
    from runtime_helpers import faces
    from trainable_runs import build

    from fedfer.export.inference import convert_for_inference
    from fedfer.export.inference_card import InferenceCard
    from fedfer.export.loss_settings import LossSettings

    images, _ = faces(40)
    precisions: tuple[str, ...] = ("float32", "float16", "int8")
    for precision in precisions:
        card = InferenceCard("tiny", (48, 48, 1), LABELS, precision, "probabilities")  # type: ignore[arg-type]
        content = convert_for_inference(build("all"), card, LossSettings(), images)
        (folder / f"{precision}.tflite").write_bytes(content)
    expected: NDArray[np.float32] = np.asarray(build("all")(images, training=False))
    return expected


def infer_small(path: Path, runtime: str, count: int) -> NDArray[np.float32]:
    from runtime_helpers import faces

    from fedfer.export.inference_run import InferenceModel

    return InferenceModel(path, runtime=runtime).infer(faces(count)[0])
