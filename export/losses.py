"""Losses as graphs of builtin operators, with the stable gradients that Keras's fused operators have.

How `train` uses it, `outputs` being what the model gave in training and `settings` a LossSettings
(fedfer.export.loss_settings):

    step = training_loss(outputs, targets, settings)
    step.loss      f32[], mean over the batch: add the model's regularisers, take tf.gradients of it
    step.metric    f32[], what settings.metric names

`infer` gives `predictions(outputs, settings)`; `loss_of(model)` reads what a Keras model was compiled with;
`keras_loss` is Keras's own value, to hold a file against.

Where a softmax or sigmoid made the outputs, Keras leaves its logits on them and computes the loss from those;
other probabilities are clipped to EPSILON..1-EPSILON before the logarithm. Either way Keras ends in a fused
softmax (or sigmoid) cross-entropy, an op that phones lack; it is spelled out here.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from fedfer.export.loss_settings import BINARY, DENSE, LOSSES, SPARSE, SQUARED, LossSettings
from fedfer.model.errors import ExportError

Gradient = Callable[[tf.Tensor], tuple[tf.Tensor | None, ...]]
EPSILON = 1e-7  # keras.config.epsilon()
KERAS_CLASSES: dict[str, type[keras.losses.Loss]] = {
    SPARSE: keras.losses.SparseCategoricalCrossentropy,
    DENSE: keras.losses.CategoricalCrossentropy,
    BINARY: keras.losses.BinaryCrossentropy,
    SQUARED: keras.losses.MeanSquaredError,
}
MEANS = ("sum_over_batch_size", "mean")  # Keras's words for the mean over the batch


class Step(NamedTuple):
    """Both f32[]: the mean loss of a batch, and accuracy or mean absolute error."""

    loss: tf.Tensor
    metric: tf.Tensor


def training_loss(outputs: tf.Tensor, targets: tf.Tensor, settings: LossSettings) -> Step:
    """Loss and metric of outputs [B,K]; targets as settings.target(K) says."""
    if settings.name == SQUARED:
        error = outputs - targets
        return Step(_mean_of_examples(error * error), _mean_of_examples(tf.abs(error)))
    if settings.name == BINARY:
        return _binary(outputs, _binary_targets(outputs, targets), settings)
    return _categorical(outputs, targets, settings)


def predictions(outputs: tf.Tensor, settings: LossSettings) -> tf.Tensor:
    """What `infer` gives: probabilities f32[B,K] of classes; of a single yes-or-no output both probabilities,
    f32[B,2], of several each one's, f32[B,K]; a regressor's outputs as they are. A model that is said to end
    in logits may end in a softmax all the same (Keras warns, and trains on what the softmax was given)."""
    if settings.name == SQUARED:
        return outputs
    raw = settings.from_logits and getattr(outputs, "_keras_logits", None) is None  # no softmax, no sigmoid
    if settings.name == BINARY:
        yes = tf.sigmoid(outputs) if raw else outputs
        return tf.concat([1.0 - yes, yes], axis=1) if yes.shape[-1] == 1 else yes
    return tf.nn.softmax(outputs) if raw else outputs


def _categorical(outputs: tf.Tensor, targets: tf.Tensor, settings: LossSettings) -> Step:
    num_classes = int(outputs.shape[-1])
    if settings.name == SPARSE:
        hits = tf.equal(tf.argmax(outputs, axis=-1, output_type=tf.int32), targets)
        targets = tf.one_hot(targets, num_classes)
    else:
        chosen = tf.argmax(targets, axis=-1, output_type=tf.int32)
        hits = tf.equal(tf.argmax(outputs, axis=-1, output_type=tf.int32), chosen)
    accuracy = tf.reduce_mean(tf.cast(hits, tf.float32))
    weights = _example_weights(targets, settings)
    smoothing = settings.label_smoothing
    if smoothing:
        targets = targets * (1.0 - smoothing) + smoothing / num_classes
    logits = _logits(outputs, settings)
    if logits is None and settings.name == DENSE:
        shares = outputs / tf.reduce_sum(outputs, axis=-1, keepdims=True)
        terms = targets * tf.math.log(_clipped(shares))
        return Step(_weighted_mean(-tf.reduce_sum(terms, axis=-1), weights), accuracy)
    if logits is None:
        logits = tf.math.log(_clipped(outputs))
    return Step(_softmax_cross_entropy(logits, targets, weights), accuracy)


def _binary(outputs: tf.Tensor, targets: tf.Tensor, settings: LossSettings) -> Step:
    middle = 0.0 if settings.from_logits else 0.5
    hits = tf.equal(outputs > middle, targets > 0.5)
    accuracy = _mean_of_examples(tf.cast(hits, tf.float32))
    weights = _yes_or_no_weights(targets, settings)
    smoothing = settings.label_smoothing
    if smoothing:
        targets = targets * (1.0 - smoothing) + 0.5 * smoothing
    logits = _logits(outputs, settings)
    if logits is not None:
        losses = _sigmoid_cross_entropy(logits, targets)
    else:
        yes = _clipped(outputs)
        losses = -(targets * tf.math.log(yes) + (1.0 - targets) * tf.math.log(1.0 - yes))
    return Step(_weighted_mean(tf.reduce_mean(losses, axis=-1), weights), accuracy)


def _binary_targets(outputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """f32[B,K] of labels i32[B] or targets f32[B,K]."""
    if targets.shape.rank == outputs.shape.rank:
        return targets
    return tf.reshape(tf.cast(targets, tf.float32), [-1, 1])


def _logits(outputs: tf.Tensor, settings: LossSettings) -> tf.Tensor | None:
    """What the softmax or sigmoid behind these outputs was given; None for other probabilities."""
    behind = getattr(outputs, "_keras_logits", None)
    return outputs if behind is None and settings.from_logits else behind


def _clipped(probabilities: tf.Tensor) -> tf.Tensor:
    """EPSILON..1-EPSILON; no gradient where it was outside (as ClipByValue in TensorFlow)."""
    low, high = EPSILON, 1.0 - EPSILON
    clipped = tf.minimum(tf.maximum(probabilities, low), high)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def clip(p: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        inside = tf.cast(tf.equal(p, clipped), tf.float32)
        return clipped, lambda dy: dy * inside

    return clip(probabilities)


def _example_weights(one_hot: tf.Tensor, settings: LossSettings) -> tf.Tensor | None:
    """f32[B] of the class of each example: the largest of f32[B,K]; None where all count the same."""
    if not settings.class_weights:
        return None
    if settings.name == DENSE:
        one_hot = tf.one_hot(tf.argmax(one_hot, axis=-1, output_type=tf.int32), int(one_hot.shape[-1]))
    return tf.reduce_sum(one_hot * tf.constant(settings.class_weights, tf.float32), axis=-1)


def _yes_or_no_weights(targets: tf.Tensor, settings: LossSettings) -> tf.Tensor | None:
    """f32[B] of targets f32[B,1] that are 0 or 1."""
    if not settings.class_weights:
        return None
    no, yes = settings.class_weights
    return tf.reshape(targets * (yes - no) + no, [-1])


def _mean_of_examples(values: tf.Tensor) -> tf.Tensor:
    """Mean of [B,K], axis after axis: TFLite adds one by one."""
    return tf.reduce_mean(tf.reduce_mean(values, axis=-1))


def _weighted_mean(losses: tf.Tensor, weights: tf.Tensor | None) -> tf.Tensor:
    return tf.reduce_mean(losses if weights is None else losses * weights)


def _softmax_cross_entropy(logits: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor | None) -> tf.Tensor:
    """mean_i w_i * -sum_k t_ik log softmax(z_i)_k, its gradient w_i * (softmax(z_i) - t_i) / B."""

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def cross_entropy(logits: tf.Tensor) -> tuple[tf.Tensor, Gradient]:
        log_probabilities = tf.nn.log_softmax(logits)
        losses = -tf.reduce_sum(log_probabilities * targets, axis=-1)

        def gradient(scale: tf.Tensor) -> tuple[tf.Tensor | None, ...]:
            batch_size = tf.cast(tf.shape(targets)[0], tf.float32)
            share = scale / batch_size
            factor = share if weights is None else tf.reshape(weights, [-1, 1]) * share
            # Not exp(log_probabilities): LiteRT splits its graph at a LOG_SOFTMAX between the passes.
            return ((tf.nn.softmax(logits) - targets) * factor,)

        return _weighted_mean(losses, weights), gradient

    return cross_entropy(logits)


def _sigmoid_cross_entropy(logits: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """max(z,0) - z*t + log(1 + exp(-|z|)) element by element; its gradient is sigmoid(z) - t. (Without LOG1P
    on phones a loss below 1e-7 may read as 0; the gradient is exact.)"""

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def cross_entropy(logits: tf.Tensor) -> tuple[tf.Tensor, Gradient]:
        rest = tf.math.log(1.0 + tf.exp(-tf.abs(logits)))
        losses = tf.maximum(logits, 0.0) - logits * targets + rest
        return losses, lambda dy: (dy * (tf.sigmoid(logits) - targets),)

    return cross_entropy(logits)


def keras_loss(outputs: tf.Tensor, targets: tf.Tensor, settings: LossSettings) -> tf.Tensor:
    """The same loss by Keras itself, f32[]: a reference for outputs and targets as in `training_loss`."""
    name = settings.name
    options: dict[str, Any] = {}
    if name == SPARSE and settings.label_smoothing:  # Keras has it for one-hot targets only
        name, targets = DENSE, tf.one_hot(targets, outputs.shape[-1])
    if name == BINARY:
        targets = _binary_targets(outputs, targets)
    if name != SQUARED:
        options["from_logits"] = settings.from_logits
    if settings.label_smoothing:
        options["label_smoothing"] = settings.label_smoothing
    weights = None
    if settings.class_weights:
        table = tf.constant(settings.class_weights, tf.float32)
        numbers = (
            tf.argmax(targets, axis=-1) if name == DENSE else tf.cast(tf.reshape(targets, [-1]), tf.int32)
        )
        weights = tf.gather(table, numbers)
    return KERAS_CLASSES[name](**options)(targets, outputs, sample_weight=weights)


def loss_of(model: keras.Model) -> LossSettings | None:
    """What the model was compiled with; None if it was not. Raises ExportError for a loss that cannot be
    exported, naming it."""
    if getattr(model, "loss", None) is None:
        return None
    said = model.loss
    if isinstance(said, dict | list | tuple) and len(said) == 1:  # of the one output
        (said,) = said.values() if isinstance(said, dict) else said
    try:
        loss = keras.losses.get(said)
    except ValueError:
        loss = said
    if getattr(model._compile_loss, "_user_loss_weights", None) is not None:
        raise ExportError(
            "the model was compiled with loss_weights, which phones do not apply; leave them out and choose "
            "the learning rate by them, or say --loss"
        )
    settings = _settings_of(loss)
    if settings is None:
        shown = getattr(loss, "name", None) or getattr(loss, "__name__", None) or type(loss).__name__
        raise ExportError(
            f"the model's loss {shown} cannot be exported; compile it with one of {', '.join(LOSSES)} "
            "(mean over the batch), or say --loss"
        )
    return settings


def _settings_of(loss: Any) -> LossSettings | None:
    """None for what is not one of LOSSES as Keras has it."""
    for name, kind in KERAS_CLASSES.items():
        if loss is getattr(keras.losses, name):
            return LossSettings(name)
        if type(loss) is kind:
            config = loss.get_config()
            usual = config.get("reduction") in MEANS and config.get("axis", -1) == -1
            if not usual or config.get("ignore_class") is not None:
                return None
            smoothing = config.get("label_smoothing", 0.0)
            return LossSettings(name, config.get("from_logits", False), float(smoothing))
    return None
