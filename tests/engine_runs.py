"""The same steps by both engines, for `call_isolated`: interpreters and TensorFlow come inside."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfer.export.checkpoint import Weights
from fedfer.export.contract import TrainingSettings
from fedfer.export.engine import Engine
from fedfer.export.engines import EngineChoice, open_engine
from fedfer.export.loss_settings import SQUARED

SHAPE, NUM_CLASSES, BATCH_SIZE, NUM_STEPS = (8, 8, 2), 3, 6, 8
LABELS = ("a", "b", "c")


@dataclass(frozen=True)
class Case:
    """How the smooth model is exported and trained; `function` of this module builds it."""

    settings: TrainingSettings
    function: str = "build"
    mu: float = 0.0
    trainable: str = "all"

    @property
    def source(self) -> str:
        return f"engine_runs:{self.function}"


@dataclass(frozen=True)
class Steps:
    """What an engine computed: weights before and after each of NUM_STEPS steps, loss and metric before each,
    predictions at the end, and the last weights of the same steps after a `restore` of the first, and by
    going on from a state kept in the middle."""

    weights: list[Weights]
    measures: list[tuple[float, float]]
    predictions: NDArray[np.float32]
    again: Weights
    resumed: Weights
    runtime: str


def build(dropout: float = 0.0, momentum: float = 0.8, decay: float = 0.01, ending: str = "softmax") -> Any:
    """Convolution, BatchNorm, pooling, dropout and two dense layers, with tanh and averages: nothing that
    rounding could tip over."""
    import keras

    keras.utils.set_random_seed(3)
    regularizer = keras.regularizers.L2(decay)
    layers = [
        keras.Input(SHAPE),
        keras.layers.Conv2D(5, 3, padding="same", activation="tanh", name="conv"),
        keras.layers.BatchNormalization(momentum=momentum, name="bn"),
        keras.layers.AveragePooling2D(2, name="pool"),
        keras.layers.Dropout(dropout, name="drop"),
        keras.layers.Flatten(name="flatten"),
        keras.layers.Dense(7, activation="tanh", kernel_regularizer=regularizer, name="hidden"),
        keras.layers.Dense(NUM_CLASSES, activation=ending, name="last"),
    ]
    return keras.Sequential(layers, name="smooth")


def with_dropout() -> Any:
    return build(dropout=0.4)


def with_other_momentum() -> Any:
    return build(momentum=0.6)


def with_other_decay() -> Any:
    return build(decay=0.1)


def with_other_weights() -> Any:
    model = build()
    model.set_weights([weight * 1.01 for weight in model.get_weights()])
    return model


def regressor() -> Any:
    return build(ending="linear")


def of_another_shape() -> Any:
    import keras

    layers = [
        keras.Input(SHAPE),
        keras.layers.Flatten(),
        keras.layers.Dense(3, activation="softmax", name="d"),
    ]
    return keras.Sequential(layers, name="smooth")


def export_cases(folder: Path, cases: list[Case]) -> None:
    """Writes 0.tflite, 1.tflite, ..."""
    from fedfer.export.tflite import convert
    from fedfer.export.trainable import choose_trainable

    for number, case in enumerate(cases):
        model = globals()[case.function]()
        choose_trainable(model, case.trainable)
        (folder / f"{number}.tflite").write_bytes(convert(model, LABELS, case.settings))


def batches(settings: TrainingSettings) -> list[tuple[NDArray[np.float32], NDArray[Any]]]:
    """The same every time; of a regressor with targets."""
    rng = np.random.default_rng(11)
    images = rng.normal(0.3, 1, (NUM_STEPS, BATCH_SIZE, *SHAPE)).astype(np.float32)
    labels: NDArray[Any] = rng.integers(0, NUM_CLASSES, (NUM_STEPS, BATCH_SIZE))
    if settings.loss.name == SQUARED:
        labels = rng.normal(0, 1, (NUM_STEPS, BATCH_SIZE, NUM_CLASSES)).astype(np.float32)
    return list(zip(images, labels, strict=True))


def in_keras(case: Case) -> EngineChoice:
    return EngineChoice("keras", keras_model=case.source)


def take_steps(runs: list[tuple[Path, EngineChoice, Case]]) -> list[Steps]:
    """One run after the other, in this process."""
    return [_take_steps(open_engine(path, choice), case) for path, choice, case in runs]


def _take_steps(engine: Engine, case: Case) -> Steps:
    weights, measures = [engine.save()], []
    for seed, (images, labels) in enumerate(batches(case.settings)):
        measures.append(_step(engine, images, labels, case, seed))
        weights.append(engine.save())
    predictions = engine.infer(batches(case.settings)[0][0])
    engine.restore(weights[0])
    numbered = list(enumerate(batches(case.settings)))
    middle = NUM_STEPS // 2
    for seed, (images, labels) in numbered[:middle]:
        _step(engine, images, labels, case, seed)
    state = engine.save_state()
    for seed, (images, labels) in numbered[middle:]:
        _step(engine, images, labels, case, seed)
    again = engine.save()
    engine.restore_state(weights[0], state)
    for seed, (images, labels) in numbered[middle:]:
        _step(engine, images, labels, case, seed)
    return Steps(weights, measures, predictions, again, engine.save(), engine.runtime)


def _step(
    engine: Engine, images: NDArray[np.float32], labels: NDArray[Any], case: Case, seed: int
) -> tuple[float, float]:
    rate = case.settings.learning_rate
    result = engine.train(images, labels, learning_rate=rate, seed=seed, proximal_mu=case.mu)
    return result.loss, result.accuracy


def refusals(path: Path, cases: list[Case]) -> list[str]:
    """What is said of each case's Keras model, as the engine for this file."""
    from fedfer.model.errors import UsageError

    said = []
    for case in cases:
        try:
            open_engine(path, in_keras(case))
        except UsageError as error:
            said.append(str(error))
        else:
            said.append("nothing")
    return said


def open_after_tensorflow(path: Path, choice: EngineChoice) -> None:
    """TensorFlow has set itself up before the engine says with how many threads."""
    import tensorflow as tf

    tf.constant(1) + tf.constant(1)
    open_engine(path, choice)


def run_badly(path: Path, choice: EngineChoice) -> None:
    """A batch of images of the wrong size."""
    open_engine(path, choice).infer(np.zeros((1, 3, 3, 2), np.float32))


def open_by_keras(path: Path, source: str) -> str:
    """What computes; the engine holds a step against the file's before it says so."""
    return open_engine(path, EngineChoice("keras", keras_model=source)).runtime
