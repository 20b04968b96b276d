"""The cases of loss_cases as one `.tflite`, and by Keras. Imports TensorFlow: for `call_isolated` only."""

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from gradient_graphs import Arrays, convert
from loss_cases import LossCase, all_cases

from fedfer.export.gradients import builtin_gradients
from fedfer.export.losses import keras_loss, predictions, training_loss

ENDS = {
    "softmax": keras.activations.softmax,
    "sigmoid": keras.activations.sigmoid,
    "nothing": lambda x: x + 0.0,
    "shares": lambda x: x / tf.reduce_sum(x, axis=-1, keepdims=True),
}


def build(path: Path) -> dict[str, Arrays]:
    """Writes a signature for each case; returns Keras's loss, gradient and predictions of each."""
    cases = all_cases()
    path.write_bytes(convert([], {case.name: traced(case) for case in cases}))
    return {case.name: expected(case) for case in cases}


def traced(case: LossCase) -> tf.types.experimental.ConcreteFunction:
    def step(x: tf.Tensor, targets: tf.Tensor) -> dict[str, tf.Tensor]:
        with builtin_gradients(tf.compat.v1.get_default_graph()):
            outputs = ENDS[case.end](x)
            found = training_loss(outputs, targets, case.settings)
            (gradient,) = tf.gradients(found.loss, [x])
        return {
            "loss": found.loss,
            "metric": found.metric,
            "gradient": gradient,
            "predictions": predictions(outputs, case.settings),
        }

    return tf.function(step).get_concrete_function(
        x=tf.TensorSpec([None, *case.x.shape[1:]], tf.float32),
        targets=tf.TensorSpec([None, *case.targets.shape[1:]], case.targets.dtype),
    )


def expected(case: LossCase) -> Arrays:
    x, targets = tf.constant(case.x), tf.constant(case.targets)
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = ENDS[case.end](x)
        loss = keras_loss(outputs, targets, case.settings)
    gradient = tape.gradient(loss, x)
    return {"loss": np.asarray(loss), "gradient": np.asarray(gradient), "outputs": np.asarray(outputs)}


def compiled_with() -> dict[str, object]:
    """What `loss_of` says of models compiled with these losses: settings, or the error's words."""
    from fedfer.export.losses import loss_of
    from fedfer.model.errors import ExportError

    losses = {
        "nothing": None,
        "short": "mse",
        "name": "sparse_categorical_crossentropy",
        "function": keras.losses.binary_crossentropy,
        "logits": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "smoothed": keras.losses.CategoricalCrossentropy(label_smoothing=0.25),
        "sum": keras.losses.MeanSquaredError(reduction="sum"),
        "ignoring": keras.losses.SparseCategoricalCrossentropy(ignore_class=0),
        "other": keras.losses.Huber(),
        "own": lambda y, z: tf.reduce_mean(tf.abs(y - z)),
    }
    alone = keras.losses.MeanSquaredError()
    losses |= {"in a list": [alone], "by the output's name": {"dense": alone}}
    said: dict[str, object] = {}
    for word, loss in losses.items():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        if loss is not None:
            model.compile("sgd", loss)
        try:
            said[word] = loss_of(model)
        except ExportError as error:
            said[word] = str(error)
    model.compile("sgd", "mse", loss_weights=[0.5])
    try:
        said["weighed"] = loss_of(model)
    except ExportError as error:
        said["weighed"] = str(error)
    return said
