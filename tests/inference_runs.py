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


def images_of_rows(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(6).uniform(0, 1, (count, 5, 6, 1)).astype(np.float32)


def export_recurrent(folder: Path) -> NDArray[np.float32]:
    """The same of an LSTM over the rows of images, and a GRU both ways."""
    import keras

    from fedfer.export.inference import convert_for_inference
    from fedfer.export.inference_card import InferenceCard
    from fedfer.export.loss_settings import LossSettings

    keras.utils.set_random_seed(7)
    cells = [keras.layers.LSTM(8, return_sequences=True), keras.layers.Bidirectional(keras.layers.GRU(6))]
    stack = [keras.Input((5, 6, 1)), keras.layers.Reshape((5, 6)), *cells, keras.layers.Dense(3, "softmax")]
    model, images = keras.Sequential(stack, name="rows"), images_of_rows(40)
    expected: NDArray[np.float32] = np.asarray(model(images, training=False))
    precisions: tuple[str, ...] = ("float32", "float16", "int8")
    for precision in precisions:
        card = InferenceCard("rows", (5, 6, 1), ("a", "b", "c"), precision, "probabilities")  # type: ignore[arg-type]
        (folder / f"{precision}.tflite").write_bytes(
            convert_for_inference(model, card, LossSettings(), images)
        )
    return expected


def infer_rows(path: Path, runtime: str, count: int) -> NDArray[np.float32]:
    from fedfer.export.inference_run import InferenceModel

    return InferenceModel(path, runtime=runtime).infer(images_of_rows(40)[:count])


def infer_small(path: Path, runtime: str, count: int) -> NDArray[np.float32]:
    from runtime_helpers import faces

    from fedfer.export.inference_run import InferenceModel

    return InferenceModel(path, runtime=runtime).infer(faces(count)[0])
