"""The functions of gradient_cases in TensorFlow. Imports TensorFlow: call from `call_isolated` only."""

import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"  # oneDNN's convolutions are wrong for some strides: docs/log.md

import keras
import numpy as np
import tensorflow as tf
from gradient_cases import Case, alone_name, cotangent, first_example
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
FUNCTIONS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "elementwise": lambda x: tf.sin(x) * tf.cos(x) + tf.sign(x) * tf.math.log1p(tf.abs(x)) + tf.math.expm1(x),
    "gelu_tanh": lambda x: keras.activations.gelu(x, approximate=True),
    "slices": lambda x: x[:, ::2, 1:-1] + x[:, :3, -1:] + x[:, None, 4, :1] + x[:, ::-2, ..., 2:3],
    "powers": lambda x: tf.abs(x) ** 1.5 + tf.square(x) + x**3,
    "parts": lambda x: tf.split(x, 3, -1)[1] + tf.unstack(x, axis=1)[0][:, None, :2],
    "extremes": lambda x: tf.reduce_max(x, [1, 2], keepdims=True) * tf.reduce_min(x, 1, keepdims=True),
    "sums": lambda x: tf.reduce_sum(x, 2, keepdims=True) * tf.reduce_mean(x, [1, 2], keepdims=True),
    "products": lambda x: tf.matmul(x, tf.matmul(x, x, transpose_a=True)),
    "products_transposed": lambda x: tf.matmul(x[:, :2], x[:, 2:4], transpose_b=True),
}


def make_layer(kind: str, settings: dict[str, Any]) -> keras.Layer:
    """A layer of keras.layers; a `layer` among the settings is (kind, settings) itself."""
    settings = dict(settings)
    if "function" in settings:
        return keras.layers.Lambda(FUNCTIONS[settings["function"]])
    if "layer" in settings:
        settings["layer"] = make_layer(*settings["layer"])
    return getattr(keras.layers, kind)(**settings)


class Function:
    """A case's op, with its layer's weights if it has one: the op is then the name of a Keras layer."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.layer: Any = None
        if case.op not in OPS:
            self.layer = make_layer(case.op, case.settings)
            self({name: tf.constant(array) for name, array in case.inputs.items()})  # makes the weights
            rng = np.random.default_rng(5)
            for weight in self.layer.weights:
                if weight.dtype == "float32":
                    signed = "kernel" in weight.path
                    weight.assign(
                        rng.normal(0, 0.5, weight.shape) if signed else rng.uniform(0.5, 2, weight.shape)
                    )

    def __call__(self, inputs: Tensors) -> tf.Tensor:
        if self.layer is not None:
            values = [inputs[name] for name in sorted(inputs)]
            if self.case.op == "MultiHeadAttention":
                return self.layer(*values, training=True)
            return self.layer(values if len(values) > 1 else values[0], training=True)
        return OPS[self.case.op](**inputs, **self.case.settings)

    def variables(self) -> Tensors:
        """The layer's trainable weights."""
        return {w.name: w.value for w in (self.layer.trainable_weights if self.layer is not None else [])}

    def statistics(self) -> Tensors:
        """The layer's other weights, as they are now."""
        others = self.layer.non_trainable_weights if self.layer is not None else []
        return {w.name: tf.identity(w.value) for w in others if w.dtype == "float32"}


def expected_gradients(function: Function) -> tuple[Arrays, NDArray[np.float32]]:
    """TensorFlow's own y, gradients and statistics of one call and of one example alone; the cotangent.

    Leaves the weights."""
    found, dy = _gradients_of(function, function.case.inputs)
    first = first_example(function.case)
    if first:
        alone, _ = _gradients_of(function, first, dy[:1])
        names = alone.keys() - function.statistics().keys()
        found |= {alone_name(name): alone[name] for name in names}
    return found, dy


def _gradients_of(
    function: Function, arrays: Arrays, dy: NDArray[np.float32] | None = None
) -> tuple[Arrays, NDArray[np.float32]]:
    """As expected_gradients, for these inputs; `dy` is the case's own unless given."""
    inputs = {name: tf.constant(array) for name, array in arrays.items()}
    before = function.layer.get_weights() if function.layer is not None else []
    with tf.GradientTape() as tape:
        tape.watch([x for x in inputs.values() if x.dtype == tf.float32])
        y = function(inputs)
        dy = cotangent(function.case, tuple(y.shape)) if dy is None else dy
        weighted = tf.reduce_sum(y * (2.0 * dy))
    sources = {name: x for name, x in inputs.items() if x.dtype == tf.float32} | function.variables()
    gradients = {name: tf.convert_to_tensor(g) for name, g in tape.gradient(weighted, sources).items()}
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
            floats = {name: x for name, x in tensors.items() if x.dtype == tf.float32}
            sources = {**floats, **function.variables()}
            # 2 * dy: a gradient that is its own input cannot be an output of a .tflite
            found = tf.gradients(y, list(sources.values()), grad_ys=2.0 * dy)
        return {**dict(zip(sources, found, strict=True)), **function.statistics(), "result": y}

    arrays = function.case.inputs | {"dy": np.zeros(dy_shape, np.float32)}
    batched = {"x", "x2", "dy"}
    return tf.function(gradients).get_concrete_function(
        **{
            name: tf.TensorSpec([None, *array.shape[1:]] if name in batched else array.shape, array.dtype)
            for name, array in arrays.items()
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


def build(directory: Path, files: dict[str, list[Case]]) -> dict[str, tuple[Arrays, NDArray[np.float32]]]:
    """Writes the `.tflite` files, a signature for each case; returns expected gradients and cotangents."""
    expected: dict[str, tuple[Arrays, NDArray[np.float32]]] = {}
    for file, cases in files.items():
        functions = [Function(case) for case in cases]
        expected |= {function.case.name: expected_gradients(function) for function in functions}
        signatures = {f.case.name: traced(f, expected[f.case.name][1].shape) for f in functions}
        (directory / file).write_bytes(convert(functions, signatures))
    return expected
