"""Steps of each optimizer in exported files and in Keras, for `call_isolated`; TensorFlow comes inside."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedfer.export.checkpoint import Weights
from fedfer.export.optimizer_settings import OptimizerSettings

SHAPE, NUM_CLASSES, BATCH_SIZE = (4, 4, 1), 3, 5
LABELS = ("a", "b", "c")
NUM_STEPS = 20


@dataclass(frozen=True)
class Case:
    optimizer: OptimizerSettings
    learning_rate: float
    proximal: bool = False


def batches(num_steps: int = NUM_STEPS) -> list[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """The first of NUM_STEPS batches, which are the same every time."""
    rng = np.random.default_rng(7)
    images = rng.normal(0, 1, (NUM_STEPS, BATCH_SIZE, *SHAPE)).astype(np.float32)
    labels = rng.integers(0, NUM_CLASSES, (NUM_STEPS, BATCH_SIZE))
    return list(zip(images, labels, strict=True))[:num_steps]


def build() -> object:
    """Two dense layers, tanh between: nothing that rounding could tip over."""
    import keras

    keras.utils.set_random_seed(1)
    layers = [
        keras.Input(SHAPE),
        keras.layers.Flatten(),
        keras.layers.Dense(6, activation="tanh", name="hidden"),
        keras.layers.Dense(NUM_CLASSES, activation="softmax", name="last"),
    ]
    return keras.Sequential(layers, name="smooth")


def export_cases(folder: Path, cases: list[Case]) -> None:
    """Writes 0.tflite, 1.tflite, ..."""
    from fedfer.export.contract import TrainingSettings
    from fedfer.export.tflite import convert

    for number, case in enumerate(cases):
        settings = TrainingSettings(case.optimizer, learning_rate=case.learning_rate, proximal=case.proximal)
        (folder / f"{number}.tflite").write_bytes(convert(build(), LABELS, settings))


def train_in_keras(cases: list[Case]) -> list[tuple[Weights, list[float]]]:
    """NUM_STEPS of Keras's `train_on_batch` for each case: weights and losses."""
    import keras

    from fedfer.export.keras_training import keras_optimizer
    from fedfer.export.signatures import weight_specs

    found = []
    for case in cases:
        model = build()
        assert isinstance(model, keras.Model)
        optimizer = keras_optimizer(case.optimizer, case.learning_rate)
        model.compile(optimizer, "sparse_categorical_crossentropy")
        losses = [float(model.train_on_batch(*batch)) for batch in batches()]
        names = [spec.name for spec in weight_specs(model)]
        found.append((dict(zip(names, map(np.array, model.get_weights()), strict=True)), losses))
    return found


def train_in_runtime(
    path: Path, runtime: str, learning_rate: float, mu: float = 0.0, num_steps: int = NUM_STEPS
) -> tuple[Weights, list[float]]:
    from fedfer.export.runtime import Model

    model = Model(path, runtime=runtime)
    losses = [
        model.train(*batch, learning_rate=learning_rate, seed=0, proximal_mu=mu).loss
        for batch in batches(num_steps)
    ]
    return model.save(), losses


def train_on(path: Path, runtime: str, learning_rate: float, mu: float) -> tuple[Weights, Weights, Weights]:
    """What `save_state` gives after three of six steps, the weights after all of them, and those of another
    interpreter that goes on from that state; it has other steps behind it."""
    from fedfer.export.runtime import Model

    one, other = Model(path, runtime=runtime), Model(path, runtime=runtime)
    first = one.save()
    state: Weights = {}
    for number, batch in enumerate(batches(6)):
        if number == 3:
            state = one.save_state()
        one.train(*batch, learning_rate=learning_rate, seed=0, proximal_mu=mu)
    for batch in batches(2):
        other.train(*batch, learning_rate=learning_rate, seed=0, proximal_mu=mu)
    assert one.can_resume
    other.restore_state(first, state)
    for batch in batches(6)[3:]:
        other.train(*batch, learning_rate=learning_rate, seed=0, proximal_mu=mu)
    return state, one.save(), other.save()


def without_state_signatures(path: Path, older: Path) -> None:
    """Writes the file as it was exported before there were `save_state` and `restore_state`."""
    from tensorflow.lite.python import schema_py_generated as schema

    from fedfer.export.contract import STATE_SIGNATURES
    from fedfer.export.packing import pack

    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    kept = [s for s in model.signatureDefs if s.signatureKey.decode() not in STATE_SIGNATURES]
    assert len(kept) == len(model.signatureDefs) - 2
    model.signatureDefs = kept
    older.write_bytes(pack(model))


def can_resume(path: Path, runtime: str) -> bool:
    from fedfer.export.runtime import Model

    return Model(path, runtime=runtime).can_resume


def train_twice(
    path: Path, runtime: str, learning_rate: float, mu: float
) -> tuple[Weights, Weights, Weights]:
    """Weights of the file, after three steps, and after `restore` of the first and three steps again."""
    from fedfer.export.runtime import Model

    model = Model(path, runtime=runtime)
    first, after = model.save(), []
    for _ in range(2):
        for batch in batches(3):
            model.train(*batch, learning_rate=learning_rate, seed=0, proximal_mu=mu)
        after.append(model.save())
        model.restore(first)
    return first, after[0], after[1]
