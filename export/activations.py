"""Gradients of activation functions, and an exact GELU, of operators that every TFLite runtime has."""

import math

import tensorflow as tf

# Largest factor that keeps 0 at 0 and lifts every normal float32 to at least 1 (inf is clamped to 1).
SATURATE = 3e38
OVERRIDES = {
    "Relu": "FedferRelu",
    "Relu6": "FedferRelu6",
    "LeakyRelu": "FedferLeakyRelu",
    "Elu": "FedferElu",
    "Selu": "FedferSelu",
    "Softsign": "FedferSoftsign",
}
# Klambauer et al. 2017 (arXiv 1706.02515), the fixed point of mean 0 and variance 1.
SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772
# Abramowitz & Stegun 7.1.26: erf to 1.5e-7.
ERF_P = 0.3275911
ERF_COEFFICIENTS = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)


@tf.RegisterGradient("FedferRelu")  # type: ignore[untyped-decorator]
def _relu_gradient(op: tf.Operation, dy: tf.Tensor) -> tf.Tensor:
    """dy where the output is above 0: the mask is one MUL with a fused clamp in the file.

    GREATER and CAST, the usual form, take ten times as long in tflite-runtime 2.14.
    """
    return dy * step(op.outputs[0])


@tf.RegisterGradient("FedferRelu6")  # type: ignore[untyped-decorator]
def _relu6_gradient(op: tf.Operation, dy: tf.Tensor) -> tf.Tensor:
    """dy where the output is above 0 and below 6."""
    y = op.outputs[0]
    return dy * (step(y) * step(6.0 - y))


@tf.RegisterGradient("FedferLeakyRelu")  # type: ignore[untyped-decorator]
def _leaky_relu_gradient(op: tf.Operation, dy: tf.Tensor) -> tf.Tensor:
    """dy above 0, alpha * dy elsewhere."""
    alpha = op.get_attr("alpha")
    return dy * (step(tf.nn.relu(op.inputs[0])) * (1.0 - alpha) + alpha)


@tf.RegisterGradient("FedferElu")  # type: ignore[untyped-decorator]
def _elu_gradient(op: tf.Operation, dy: tf.Tensor) -> tf.Tensor:
    """Below 0 the slope is exp(x) = y + 1."""
    return dy * (tf.minimum(op.outputs[0], 0.0) + 1.0)


@tf.RegisterGradient("FedferSelu")  # type: ignore[untyped-decorator]
def _selu_gradient(op: tf.Operation, dy: tf.Tensor) -> tf.Tensor:
    """scale from 0 on, below it scale * alpha * exp(x) = y + scale * alpha."""
    y, below = op.outputs[0], step(tf.nn.relu(-op.outputs[0]))
    return dy * (tf.minimum(y, 0.0) + (below * (SELU_SCALE * (SELU_ALPHA - 1.0)) + SELU_SCALE))


@tf.RegisterGradient("FedferSoftsign")  # type: ignore[untyped-decorator]
def _softsign_gradient(op: tf.Operation, dy: tf.Tensor) -> tf.Tensor:
    """y = x / (1 + |x|): its slope is 1 / (1 + |x|)^2."""
    inverse = 1.0 / (1.0 + tf.abs(op.inputs[0]))
    return dy * inverse * inverse


def step(never_negative: tf.Tensor) -> tf.Tensor:
    """1 above 0, 0 at 0."""
    return tf.clip_by_value(never_negative * SATURATE, -1.0, 1.0)


def gelu(features: tf.Tensor, approximate: bool = False, name: str | None = None) -> tf.Tensor:
    """tf.nn.gelu (Hendrycks & Gimpel 2016, arXiv 1606.08415): x * Phi(x), or its tanh form.

    Phones have no ERF; here it is Abramowitz & Stegun's polynomial. The gradient is Phi(x) + x * phi(x).
    """
    if approximate:
        inner = math.sqrt(2.0 / math.pi) * (features + 0.044715 * features * features * features)
        return 0.5 * features * (1.0 + tf.tanh(inner))

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def exact(x: tf.Tensor) -> tuple[tf.Tensor, object]:
        bell = tf.exp(-0.5 * x * x)
        share = _normal_distribution(x, bell)
        return x * share, lambda dy: dy * (share + x * (bell * (1.0 / math.sqrt(2.0 * math.pi))))

    return exact(features)


def _normal_distribution(x: tf.Tensor, bell: tf.Tensor) -> tf.Tensor:
    """Phi(x) = (1 + erf(x / sqrt 2)) / 2, given exp(-x^2 / 2)."""
    t = 1.0 / (1.0 + (ERF_P / math.sqrt(2.0)) * tf.abs(x))
    polynomial = tf.zeros_like(t)
    for coefficient in ERF_COEFFICIENTS:
        polynomial = (polynomial + coefficient) * t
    tail = 0.5 * polynomial * bell  # of the side that x is on: 1 - Phi(|x|)
    above = step(tf.nn.relu(x))
    return above + (1.0 - 2.0 * above) * tail
