"""Holds an exported file against Keras and against what it promises; used before anything is written."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from fedfer.export.check import (
    Observed,
    relative_difference,
    run_in_runtime,
    tensors_apart,
    vector_difference,
    vector_norm,
)
from fedfer.export.checkpoint import Weights
from fedfer.export.contract import Contract, TrainingSettings
from fedfer.export.dropout import seeded_dropout
from fedfer.export.flatbuffer import is_builtin_only, op_census, signatures
from fedfer.export.isolation import call_isolated
from fedfer.export.keras_training import keras_optimizer
from fedfer.export.loss_settings import BINARY, SQUARED
from fedfer.export.losses import keras_loss, predictions
from fedfer.export.moments import first_gradients, moments_apart, step_by_keras
from fedfer.export.runtime import available_runtimes
from fedfer.export.signatures import one_a_sample, weight_specs
from fedfer.export.targets import encode_targets
from fedfer.export.tokens import vocabulary_size
from fedfer.export.trainable import travelling_weights
from fedfer.export.waves import wave_images
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
    findings = list(_static_findings(content, contract))
    if not all(finding.passed for finding in findings):
        return findings
    images, labels = random_batch(model, contract)
    rate = contract.training.learning_rate
    with ThreadPoolExecutor() as waiting:  # each runtime in a process of its own, beside Keras here
        runs = [
            waiting.submit(call_isolated, run_in_runtime, content, runtime, images, labels, rate, CHECK_SEED)
            for runtime in available_runtimes() or ["auto"]
        ]
        reference = _keras_step(model, images, labels, contract.training)
    if not _are_predictions(reference.predictions, contract.training.loss.name):
        end = "sigmoid" if contract.training.loss.name == BINARY else "softmax over its classes"
        text = f"the model's outputs are not probabilities; end it in a {end}"
        return [*findings, Finding(False, f"{text}, or say --from-logits if it gives logits")]
    for run in runs:
        findings += runtime_findings(run.result(), reference, contract)
    return findings


def require(findings: list[Finding]) -> None:
    """Raises ExportError naming what failed."""
    failed = [finding.text for finding in findings if not finding.passed]
    if failed:
        raise ExportError("the exported file failed its check: " + "; ".join(failed))


def _static_findings(content: bytes, contract: Contract) -> Iterator[Finding]:
    census = op_census(content)
    foreign = [name for name in census if not is_builtin_only({name: 1})]
    yield Finding(
        not foreign,
        f"operators: {sum(census.values())} of {len(census)} kinds, "
        + (f"not builtin: {foreign}" if foreign else "all builtin (no Flex, no custom)"),
    )
    names = {signature.name for signature in signatures(content)}
    yield Finding(names == set(contract.signatures), f"signatures: {', '.join(sorted(names))}")


def random_batch(model: keras.Model, contract: Contract) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Images and what is right for them, as `train` takes it."""
    rng = np.random.default_rng(CHECK_SEED)
    images, vocabulary = wave_images(rng, BATCH_SIZE, contract.image_shape), vocabulary_size(model)
    if vocabulary is not None:
        images = rng.integers(0, vocabulary, images.shape).astype(np.float32)
    if contract.training.loss.name == SQUARED:
        return images, rng.uniform(0, 1, (BATCH_SIZE, contract.num_outputs)).astype(np.float32)
    return images, encode_targets(rng.integers(0, len(contract.labels), BATCH_SIZE), contract.target)


def _are_predictions(values: NDArray[np.float32], loss: str) -> bool:
    """Whether they are probabilities; a regressor may say anything, and several yes-or-no answers sum to
    anything."""
    if loss == SQUARED:
        return True
    sums_differ = loss != BINARY and abs(values.sum(axis=-1) - 1).max() > 1e-3
    return bool(values.min() >= 0 and values.max() <= 1 + 1e-3 and not sums_differ)


@dataclass(frozen=True)
class Reference:
    """The same batch through Keras itself; `gradients` of the trained weights, clipped."""

    initial: Weights
    predictions: NDArray[np.float32]
    loss: float
    trained: Weights
    gradients: Weights


def _keras_step(
    model: keras.Model, images: NDArray[np.float32], targets: NDArray[Any], settings: TrainingSettings
) -> Reference:
    """One step by Keras's loss and optimizer with TensorFlow's gradients; only dropout's draws are ours."""
    specs, travelling, start = weight_specs(model), travelling_weights(model), model.get_weights()

    def weights() -> Weights:
        return {spec.name: np.array(w) for spec, w in zip(specs, travelling, strict=True)}

    initial = weights()
    seen = np.asarray(predictions(model(images, training=False), settings.loss))
    seed, right = tf.constant([CHECK_SEED], tf.int32), tf.constant(targets)
    with seeded_dropout(seed, one_a_sample(right)), tf.GradientTape() as tape:
        loss = keras_loss(model(images, training=True), right, settings.loss)
        loss = tf.add_n([loss, *model.losses])
    variables = [weight.value for weight in model.trainable_weights]
    # An Embedding's come as rows, some of them twice, and Keras's Adam and clipping square each by itself;
    # phones square the sum.
    gradients = [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, variables)]
    optimizer = keras_optimizer(settings.optimizer, settings.learning_rate)
    optimizer.apply(gradients, model.trainable_weights)
    trained = weights()
    model.set_weights(start)
    if settings.optimizer.clip_norm is not None:
        gradients, _ = tf.clip_by_global_norm(gradients, settings.optimizer.clip_norm)
    names = [spec.name for spec in specs if spec.role == "trainable"]
    given = {name: np.array(gradient) for name, gradient in zip(names, gradients, strict=True)}
    return Reference(initial, seen, float(loss), trained, given)


def steps(after: Weights, before: Weights) -> Weights:
    return {name: after[name] - start for name, start in before.items()}


def runtime_findings(seen: Observed, keras_step: Reference, contract: Contract) -> Iterator[Finding]:
    """What a runtime computed beside what Keras did."""

    def close(what: str, difference: float, tolerance: float = LOSS_TOLERANCE) -> Finding:
        passed = difference <= tolerance
        relation = "as in" if passed else "not as in"
        return Finding(passed, f"{seen.runtime}: {what} {relation} Keras ({difference:.1e} relative)")

    def all_close(what: str, observed: Weights, expected: Weights) -> Finding:
        apart = tensors_apart(observed, expected)
        worst = max(apart, key=lambda name: apart[name])
        return close(f"each weight's {what} (most: {worst})", apart[worst], STEP_TOLERANCE)

    start = max(relative_difference(seen.initial[name], w) for name, w in keras_step.initial.items())
    yield Finding(start == 0, f"{seen.runtime}: `save` gives the initial weights")
    yield close("`infer`", relative_difference(seen.predictions, keras_step.predictions))
    yield close("loss of `train`", abs(seen.loss - keras_step.loss) / abs(keras_step.loss))
    trained = keras_step.trained
    if contract.training.optimizer.counts_steps:  # Adam: see fedfer.export.moments
        gradients = first_gradients(seen.state, contract)
        yield all_close("gradient", gradients, keras_step.gradients)
        yield close("Adam's moments", moments_apart(seen.state, gradients, contract))
        trained = trained | step_by_keras(keras_step.initial, gradients, contract)
    taken = steps(trained, keras_step.initial)
    # A large learning rate moves weights far, and rounding's share of the step with them.
    allowed = max(WEIGHTS_TOLERANCE, STEP_TOLERANCE * vector_norm(taken) / vector_norm(trained))
    yield close("all weights after `train`", vector_difference(seen.trained, trained), allowed)
    yield all_close("step", steps(seen.trained, keras_step.initial), taken)
    yield Finding(bool(np.isfinite(seen.small_batch_loss)), f"{seen.runtime}: a batch of 1 trains as it is")
    yield Finding(seen.round_trip_exact, f"{seen.runtime}: save -> restore -> save, bit for bit")
    yield Finding(seen.repeats_exactly, f"{seen.runtime}: the same seed gives the same weights, bit for bit")
    yield Finding(seen.resumes_exactly, f"{seen.runtime}: training goes on from what is kept, bit for bit")
