"""Masks that fedfer.export.dropout draws, for `call_isolated`: light to import, TensorFlow comes inside."""

import os
import tempfile
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfer.export.runtime import RUNTIMES

Array = NDArray[Any]
SEEDS = [*range(24), -1, 2**31 - 1, -(2**31), 20_1602]
NUM_SAMPLES = 32
FEATURES = [12, 12, 16]
RATES = [0.05, 0.3, 0.5, 0.9]
SIZES = [6, 6, 8]
RATE = 0.3


def masks(num_samples: int, sizes: list[int], rate: float, seeds: list[int]) -> Array:
    """f32[seeds, num_samples, *sizes]: keep_mask of each seed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    from fedfer.export.dropout import keep_mask

    samples = tf.range(1, num_samples + 1)
    return np.stack([keep_mask(samples, sizes, rate, tf.constant([seed])).numpy() for seed in seeds])


def layer_outputs(seed: int) -> dict[str, Array]:
    """Layers over ones f32[4,6,6,8] called in this order under one `seeded_dropout`."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras
    import tensorflow as tf

    from fedfer.export.dropout import seeded_dropout

    ones, flat = tf.ones([4, *SIZES]), tf.ones([4, 50])
    half = keras.layers.Dropout(0.5)
    with seeded_dropout(tf.constant([seed]), tf.constant([6, 0, 3, 1])):
        outputs = {
            "first": half(ones, training=True),
            "second": half(ones, training=True),
            "dense": keras.layers.Dropout(0.5)(flat, training=True),
            "spatial 1D": keras.layers.SpatialDropout1D(0.5)(ones[:, 0], training=True),
            "spatial": keras.layers.SpatialDropout2D(0.5)(ones, training=True),
            "same for all channels": keras.layers.Dropout(0.5, noise_shape=(None, None, None, 1))(
                ones, training=True
            ),
            "rate 0": keras.layers.Dropout(0.0)(2.5 * ones, training=True),
            "not training": half(2.5 * ones, training=False),
        }
    return {name: output.numpy() for name, output in outputs.items()}


@dataclass(frozen=True)
class Drawn:
    """All that one process with TensorFlow draws for the tests."""

    by_rate: dict[float, Array]  # f32[seeds, NUM_SAMPLES, *FEATURES]
    few_samples: Array  # f32[2, 3, *FEATURES] at rate 0.3
    vectors: Array  # f32[seeds, 64, 512] at rate 0.3
    small: Array  # f32[seeds, 5, *SIZES] at rate RATE, as the model file draws them
    outputs: dict[str, Array]
    outputs_again: dict[str, Array]
    outputs_of_another_seed: dict[str, Array]


def draw(model_path: Path) -> Drawn:
    """Draws everything; writes the `.tflite` of write_mask_model."""
    write_mask_model(model_path)
    return Drawn(
        {rate: masks(NUM_SAMPLES, FEATURES, rate, SEEDS) for rate in RATES},
        few_samples=masks(3, FEATURES, 0.3, SEEDS[:2]),
        vectors=masks(64, [512], 0.3, SEEDS),
        small=masks(5, SIZES, RATE, SEEDS),
        outputs=layer_outputs(7),
        outputs_again=layer_outputs(7),
        outputs_of_another_seed=layer_outputs(8),
    )


def write_mask_model(path: Path) -> None:
    """A `.tflite` of keep_mask: labels i32[B], seed i32[1] -> mask f32[B,*SIZES]."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    from fedfer.export.dropout import keep_mask, sample_numbers

    def draw(labels: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"mask": keep_mask(sample_numbers(labels), SIZES, RATE, seed)}

    specs = tf.TensorSpec([None], tf.int32), tf.TensorSpec([1], tf.int32)
    with tempfile.TemporaryDirectory() as directory:
        tf.saved_model.save(tf.Module(), directory, tf.function(draw).get_concrete_function(*specs))
        path.write_bytes(tf.lite.TFLiteConverter.from_saved_model(directory).convert())


def run_mask_model(path: Path, runtime: str, num_samples: int, seeds: list[int]) -> Array:
    """As `masks`, from the file."""
    interpreter = import_module(RUNTIMES[runtime]).Interpreter(str(path))
    run = interpreter.get_signature_runner()
    labels = np.zeros(num_samples, np.int32)
    return np.stack([run(labels=labels, seed=np.array([s], np.int32))["mask"] for s in seeds])
