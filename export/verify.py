"""Holds an exported file against Keras and against what it promises; used before anything is written."""

from collections.abc import Iterator
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from fedfer.export.check import Observed, relative_difference, run_in_runtime, vector_difference
from fedfer.export.checkpoint import Weights
from fedfer.export.contract import SIGNATURES, Contract
from fedfer.export.dropout import seeded_dropout
from fedfer.export.flatbuffer import is_builtin_only, op_census, signatures
from fedfer.export.isolation import call_isolated
from fedfer.export.runtime import available_runtimes
from fedfer.export.signatures import weight_specs
from fedfer.model.errors import ExportError

LOSS_TOLERANCE = 1e-4  # relative
# Of a tensor's step, and of all weights, as vectors. Wide because rounding decides single ReLUs and maxima
# that are nearly ties: Keras's own step differs by up to 1.3e-2 when its input changes in the 7th digit. The
# step of a wrong gradient is off by 0.1 and more.
STEP_TOLERANCE = 5e-2
WEIGHTS_TOLERANCE = 1e-3
CHECK_SEED = 20_1602  # any fixed number
BATCH_SIZE = 4


@dataclass(frozen=True)
class Finding:
    """One thing that was checked: `passed`, and the numbers in words."""

    passed: bool
    text: str


def verify(content: bytes, model: keras.Model, contract: Contract) -> list[Finding]:
    """All findings. Leaves the weights of `model` as they were. Raises InterpreterError without a runtime."""
    findings = list(_static_findings(content))
    if not all(finding.passed for finding in findings):
        return findings
    images, labels = _random_batch(contract)
    rate = contract.training.learning_rate
    reference = _keras_step(model, images, labels, rate)
    sums = reference.probabilities.sum(axis=-1)
    if reference.probabilities.min() < 0 or abs(sums - 1).max() > 1e-3:
        text = "the model's outputs are not probabilities; end it in a softmax over its classes"
        return [*findings, Finding(False, text)]
    for runtime in available_runtimes() or ["auto"]:
        observed = call_isolated(run_in_runtime, content, runtime, images, labels, rate, CHECK_SEED)
        findings += _runtime_findings(observed, reference)
    return findings


def require(findings: list[Finding]) -> None:
    """Raises ExportError naming what failed."""
    failed = [finding.text for finding in findings if not finding.passed]
    if failed:
        raise ExportError("the exported file failed its check: " + "; ".join(failed))


def _static_findings(content: bytes) -> Iterator[Finding]:
    census = op_census(content)
    foreign = [name for name in census if not is_builtin_only({name: 1})]
    yield Finding(
        not foreign,
        f"operators: {sum(census.values())} of {len(census)} kinds, "
        + (f"not builtin: {foreign}" if foreign else "all builtin (no Flex, no custom)"),
    )
    names = {signature.name for signature in signatures(content)}
    yield Finding(names == set(SIGNATURES), f"signatures: {', '.join(sorted(names))}")


def wave_images(rng: np.random.Generator, count: int, shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """Images f32[count,H,W,C] in 0..1, each of a few waves of its own, unlike each other.

    White noise would not do: all its images look alike to deep layers, where BatchNorm then magnifies
    rounding (an input changed by 1e-7 moves the updated weights by 1e-2; with these by 1e-5).
    """
    height, width, channels = shape
    rows, columns = np.arange(height)[:, None, None] / height, np.arange(width)[None, :, None] / width
    images = np.zeros((count, *shape))
    for image in images:
        for _ in range(4):
            down, right = rng.uniform(-4, 4, 2)
            phase, weight = rng.uniform(0, 1, channels), rng.uniform(0.2, 1, channels)
            image += weight * np.cos(2 * np.pi * (down * rows + right * columns + phase))
        image -= image.min()
        image /= max(image.max(), 1e-6)
    return images.astype(np.float32)


def _random_batch(contract: Contract) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    rng = np.random.default_rng(CHECK_SEED)
    images = wave_images(rng, BATCH_SIZE, contract.image_shape)
    return images, rng.integers(0, len(contract.labels), BATCH_SIZE).astype(np.int32)


@dataclass(frozen=True)
class Reference:
    """The same batch through Keras itself."""

    initial: Weights
    probabilities: NDArray[np.float32]
    loss: float
    trained: Weights


def _keras_step(
    model: keras.Model, images: NDArray[np.float32], labels: NDArray[np.int32], learning_rate: float
) -> Reference:
    """One step by Keras's loss and SGD with TensorFlow's own gradients; only dropout's draws are ours."""
    specs = weight_specs(model)

    def weights() -> Weights:
        return {spec.name: np.array(w) for spec, w in zip(specs, model.weights, strict=True)}

    initial = weights()
    probabilities = np.asarray(model(images, training=False))
    seed, classes = tf.constant([CHECK_SEED], tf.int32), tf.constant(labels)
    with seeded_dropout(seed, classes), tf.GradientTape() as tape:
        loss = keras.losses.SparseCategoricalCrossentropy()(labels, model(images, training=True))
        loss = tf.add_n([loss, *model.losses])
    gradients = tape.gradient(loss, [weight.value for weight in model.trainable_weights])
    keras.optimizers.SGD(learning_rate).apply(gradients, model.trainable_weights)
    trained = weights()
    model.set_weights([initial[spec.name] for spec in specs])
    return Reference(initial, probabilities, float(loss), trained)


def _runtime_findings(seen: Observed, keras_step: Reference) -> Iterator[Finding]:
    def close(what: str, difference: float, tolerance: float = LOSS_TOLERANCE) -> Finding:
        passed = difference <= tolerance
        relation = "as in" if passed else "not as in"
        return Finding(passed, f"{seen.runtime}: {what} {relation} Keras ({difference:.1e} relative)")

    start = max(relative_difference(seen.initial[name], w) for name, w in keras_step.initial.items())
    yield Finding(start == 0, f"{seen.runtime}: `save` gives the initial weights")
    yield close("`infer`", relative_difference(seen.probabilities, keras_step.probabilities))
    yield close("loss of `train`", abs(seen.loss - keras_step.loss) / abs(keras_step.loss))
    difference = vector_difference(seen.trained, keras_step.trained)
    yield close("all weights after `train`", difference, WEIGHTS_TOLERANCE)
    steps = {
        name: vector_difference({name: seen.trained[name] - start}, {name: keras_step.trained[name] - start})
        for name, start in keras_step.initial.items()
    }
    worst = max(steps, key=lambda name: steps[name])
    yield close(f"each weight's step (most: {worst})", steps[worst], STEP_TOLERANCE)
    yield Finding(bool(np.isfinite(seen.small_batch_loss)), f"{seen.runtime}: a batch of 1 trains as it is")
    yield Finding(seen.round_trip_exact, f"{seen.runtime}: save -> restore -> save, bit for bit")
    yield Finding(seen.repeats_exactly, f"{seen.runtime}: the same seed gives the same weights, bit for bit")
