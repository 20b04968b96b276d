"""The functions of gradient_cases in TensorFlow. Imports TensorFlow: call from `call_isolated` only."""

import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from gradient_cases import Case, cases_by_file, cotangent
from numpy.typing import NDArray

from fedfer.export.gradients import builtin_gradients
from fedfer.export.layers import phone_layers

Arrays = dict[str, NDArray[np.float32]]
Tensors = dict[str, tf.Tensor]
OPS: dict[str, Callable[..., tf.Tensor]] = {
    "conv": lambda x, w, strides=(1, 1), **rest: tf.nn.conv2d(x, w, list(strides), **rest),
    "depthwise": lambda x, w, stride, padding: tf.nn.depthwise_conv2d(x, w, [1, stride, stride, 1], padding),
    "relu6": lambda x: tf.nn.relu6(x),
    "average_pool": lambda x, window, stride, padding: tf.nn.avg_pool2d(x, window, stride, padding),
    "pool": lambda x, window, stride, padding: tf.nn.max_pool2d(x, window, stride, padding),
    "relu": lambda x: tf.nn.relu(x),
    "relu_pool": lambda x: tf.nn.max_pool2d(tf.nn.relu(x), 3, 2, "SAME"),
    "residual": lambda x, w: x + tf.nn.relu(tf.nn.conv2d(tf.nn.relu(x), w, 1, "SAME")),
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "squared_difference": lambda x, y: tf.math.squared_difference(x, y),
    "bias_add": lambda x, bias: tf.nn.bias_add(x, bias),
    "reshape": lambda x, shape: tf.reshape(x, shape),
}
LAYERS: dict[str, Callable[..., keras.Layer]] = {
    "batch_norm": lambda **settings: keras.layers.BatchNormalization(momentum=0.5, **settings),
    "conv_layer": lambda **settings: keras.layers.Conv2D(**settings),
    "dense": lambda **settings: keras.layers.Dense(**settings),
    "flatten": lambda: keras.layers.Flatten(),
}


class Function:
    """A case's op, with its layer's weights if it has one."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.layer: Any = None
        if case.op in LAYERS:
            self.layer = LAYERS[case.op](**case.settings)
            self.layer.build((None, *case.inputs["x"].shape[1:]))
            rng = np.random.default_rng(5)
            self.layer.set_weights([rng.uniform(0.5, 2, w.shape) for w in self.layer.weights])

    def __call__(self, inputs: Tensors) -> tf.Tensor:
        if self.layer is not None:
            return self.layer(inputs["x"], training=True)
        return OPS[self.case.op](**inputs, **self.case.settings)

    def variables(self) -> Tensors:
        """The layer's trainable weights."""
        return {w.name: w.value for w in (self.layer.trainable_weights if self.layer is not None else [])}

    def statistics(self) -> Tensors:
        """The layer's other weights, as they are now."""
        others = self.layer.non_trainable_weights if self.layer is not None else []
        return {w.name: tf.identity(w.value) for w in others if w.dtype == "float32"}


def expected_gradients(function: Function) -> tuple[Arrays, NDArray[np.float32]]:
    """TensorFlow's own y, gradients and statistics of one call; and the cotangent. Leaves the weights."""
    inputs = {name: tf.constant(array) for name, array in function.case.inputs.items()}
    before = function.layer.get_weights() if function.layer is not None else []
    with tf.GradientTape() as tape:
        tape.watch(list(inputs.values()))
        y = function(inputs)
        dy = cotangent(function.case, tuple(y.shape))
        weighted = tf.reduce_sum(y * (2.0 * dy))
    gradients = tape.gradient(weighted, {**inputs, **function.variables()})
    results = {**gradients, **function.statistics(), "result": y}
    found = {name: np.asarray(array) for name, array in results.items()}
    if function.layer is not None:
        function.layer.set_weights(before)
    return found, dy


def traced(function: Function, dy_shape: tuple[int, ...]) -> Any:
    """The same on the phone: a concrete function of the inputs and `dy`."""

    def gradients(**tensors: tf.Tensor) -> Tensors:
        dy = tensors.pop("dy")
        with builtin_gradients(tf.compat.v1.get_default_graph()), phone_layers():
            y = function(tensors)
            sources = {**tensors, **function.variables()}
            # 2 * dy: a gradient that is its own input cannot be an output of a .tflite
            found = tf.gradients(y, list(sources.values()), grad_ys=2.0 * dy)
        return {**dict(zip(sources, found, strict=True)), **function.statistics(), "result": y}

    shapes = {name: array.shape for name, array in function.case.inputs.items()} | {"dy": dy_shape}
    batched = {"x", "dy"}
    return tf.function(gradients).get_concrete_function(
        **{
            name: tf.TensorSpec([None, *shape[1:]] if name in batched else shape, tf.float32)
            for name, shape in shapes.items()
        }
    )


def convert(functions: list[Function], signatures: dict[str, Any]) -> bytes:
    module = tf.Module()
    module.state = [
        w.value for function in functions if function.layer is not None for w in function.layer.weights
    ]
    with tempfile.TemporaryDirectory() as directory, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(module, directory, signatures, options)
        converter = tf.lite.TFLiteConverter.from_saved_model(directory, signature_keys=list(signatures))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        converter.experimental_enable_resource_variables = True
        content: bytes = converter.convert()
    return content


def build(directory: Path) -> dict[str, tuple[Arrays, NDArray[np.float32]]]:
    """Writes the `.tflite` files, a signature for each case; returns expected gradients and cotangents."""
    expected: dict[str, tuple[Arrays, NDArray[np.float32]]] = {}
    for file, cases in cases_by_file().items():
        functions = [Function(case) for case in cases]
        expected |= {function.case.name: expected_gradients(function) for function in functions}
        signatures = {f.case.name: traced(f, expected[f.case.name][1].shape) for f in functions}
        (directory / file).write_bytes(convert(functions, signatures))
    return expected
