"""What a Keras model may hold: its layers are looked at before anything is converted.

Whatever stands in the way is named with its layer and a way out. What slips through is found by the converter
or by the check of the finished file; `layers_with` says which layers an operator came from.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from fedfer.export.recurrent import MAX_STEPS
from fedfer.model.errors import ExportError, first_line

MAX_SHOWN = 3
ONE_D_AND_TWO_D = (
    *("Conv", "DepthwiseConv", "SeparableConv", "MaxPooling", "AveragePooling", "GlobalMaxPooling"),
    *("GlobalAveragePooling", "ZeroPadding", "Cropping", "UpSampling", "SpatialDropout"),
)
# Every one of them is compared with TensorFlow by the tests.
SUPPORTED = {
    *(f"{name}{size}" for name in ONE_D_AND_TWO_D for size in ("1D", "2D")),
    *("Conv1DTranspose", "Conv2DTranspose", "Dense", "EinsumDense", "Embedding", "InputLayer", "Identity"),
    *("BatchNormalization", "LayerNormalization", "RMSNormalization", "GroupNormalization"),
    *("UnitNormalization", "Normalization", "Rescaling", "Dropout", "ActivityRegularization", "Masking"),
    *("Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "Softmax"),
    *("Flatten", "Reshape", "Permute", "RepeatVector", "Resizing"),
    *("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate", "Dot"),
    *("SimpleRNN", "LSTM", "GRU", "RNN", "Bidirectional", "TimeDistributed"),
    *("SimpleRNNCell", "LSTMCell", "GRUCell", "StackedRNNCells"),
    *("Attention", "AdditiveAttention", "MultiHeadAttention"),
    *("Lambda", "Functional", "Sequential"),
}
# A way out by the beginning of a layer's name, for what is not in SUPPORTED.
WAYS_OUT = {
    "Random": "augment the images before they enter the model",
    "Gaussian": "use Dropout",
    "Alpha": "use Dropout",
    "Conv3D": "use Conv2D on images or Conv1D on sequences",
    "ConvLSTM": "use TimeDistributed(Conv2D) and an LSTM",
    "String": "give the model numbers",
    "Text": "give the model numbers",
    "Integer": "give the model numbers",
}
INTERPOLATIONS = ("nearest", "bilinear")
SCOPE = re.compile(r"[A-Za-z0-9_.\\/>-]+")  # what TensorFlow takes as a name, of a model not with _ at first


def refuse(model: keras.Model) -> None:
    """Raises ExportError naming up to MAX_SHOWN things that cannot be exported, and a way out of each."""
    found = [*_faults_of_model(model)]
    for layer in [] if found else model._flatten_layers(include_self=False):
        shown = layer.name if layer.name.isprintable() else ascii(layer.name)
        found += [f"layer {shown} ({type(layer).__name__}): {fault}" for fault in _faults(layer)]
    if found:
        more = f"; and {len(found) - MAX_SHOWN} more" if len(found) > MAX_SHOWN else ""
        raise ExportError(f"this model cannot be exported: {'; '.join(found[:MAX_SHOWN])}{more}")


def layers_with(graph: tf.Graph, operators: list[str], model: keras.Model) -> list[str]:
    """Names of the layers whose part of a traced graph, gradients included, holds one of the operators."""
    names = sorted((layer.name for layer in model._flatten_layers(include_self=False)), key=len, reverse=True)
    found: dict[str, None] = {}
    for op in graph.get_operations():
        if op.type in operators:
            scopes = op.name.split("/")
            found.update({name: None for name in names if any(_is_scope_of(name, s) for s in scopes)})
    return list(found)


def _is_scope_of(name: str, scope: str) -> bool:
    rest = scope.removeprefix(name)
    return rest != scope and (rest == "" or rest.lstrip("_").removesuffix("grad").strip("_").isdigit())


def _faults_of_model(model: keras.Model) -> Iterator[str]:
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
    if not inputs or not outputs:
        kind = type(model).__name__
        yield f"{kind} has no layers to look at; build it by keras.Sequential or keras.Model(inputs, outputs)"
        return
    if len(inputs) > 1 or len(outputs) > 1:
        yield (
            f"{len(inputs)} inputs and {len(outputs)} outputs; expected one of each (Concatenate can join "
            "inputs that come as one)"
        )
        return
    if not SCOPE.fullmatch(model.name) or model.name.startswith("_"):
        yield f"its name {model.name!r}: expected letters of A to Z, digits, '_', '.' and '-'"
    (shape,) = [tuple(tensor.shape) for tensor in inputs]
    if not 2 <= len(shape) <= 4 or None in shape[1:]:
        yield (
            f"input shape {shape}: expected fixed sizes, images (None, height, width, channels), sequences "
            "(None, steps, channels) or rows (None, columns); give keras.Input its shape"
        )
    if isinstance(getattr(model, "_outputs_struct", None), dict):
        yield "its output is a dict; build it by keras.Model(inputs, output) of the output itself"
    if getattr(inputs[0], "ragged", False) or getattr(inputs[0], "sparse", False):
        yield "a ragged or sparse input; pad the examples to one length"


def _faults(layer: Any) -> Iterator[str]:
    """What is wrong with one layer, by itself."""
    name = type(layer).__name__
    if not SCOPE.fullmatch(layer.name):
        yield "its name: expected letters of A to Z, digits, '_', '.' and '-'"
    if type(layer).__module__.startswith("keras.") and name not in SUPPORTED:
        ways = [way for start, way in WAYS_OUT.items() if name.startswith(start)]
        yield f"phones cannot train it; {ways[0] if ways else 'replace it by layers that the README lists'}"
        return
    if getattr(layer, "compute_dtype", "float32") not in ("float32", "int32", "int64"):
        yield f"it computes in {layer.compute_dtype}; build the model with the float32 policy"
    if getattr(layer, "data_format", None) == "channels_first":
        yield "its data_format is channels_first; use channels_last"
    weights = [] if layer._layers else layer.weights
    own = not type(layer).__module__.startswith("keras.")
    if own and getattr(layer, "_seed_generators", None):
        yield "it draws random numbers, which phones cannot; leave that to Dropout layers"
    constrained = [weight.name for weight in weights if getattr(weight, "constraint", None) is not None]
    if constrained:
        yield f"phones do not apply the constraint of {constrained[0]}; leave it out, or use a regularizer"
    for kind, check in CHECKS.items():
        if isinstance(layer, kind):
            yield from check(layer)


def _recurrent_faults(layer: Any) -> Iterator[str]:
    if layer.stateful:
        yield "it is stateful, and every step on a phone is another batch; use stateful=False"
    steps = [node.input_tensors[0].shape[1] for node in layer._inbound_nodes]  # none of one in Bidirectional
    if steps and max(steps) > MAX_STEPS:
        yield f"sequences of {max(steps)} steps, each laid out in the file; expected at most {MAX_STEPS}"
    cells = getattr(layer.cell, "cells", [layer.cell])
    if any(getattr(cell, "dropout", 0) or getattr(cell, "recurrent_dropout", 0) for cell in cells):
        yield "its own dropout draws numbers that phones cannot; put Dropout layers before and after it"


def _resizing_faults(layer: Any) -> Iterator[str]:
    if layer.interpolation not in INTERPOLATIONS:
        yield f"interpolation {layer.interpolation!r} has no operator; use one of {INTERPOLATIONS}"


def _transposed_faults(layer: Any) -> Iterator[str]:
    if set(layer.dilation_rate) != {1}:
        yield f"transposed with dilation_rate {layer.dilation_rate}; use dilation_rate=1"


def _group_faults(layer: Any) -> Iterator[str]:
    if layer.axis not in (-1, len(layer.input.shape) - 1):
        yield f"groups of axis {layer.axis}; use axis=-1"


def _layer_norm_faults(layer: Any) -> Iterator[str]:
    if layer.rms_scaling:
        yield "rms_scaling; use RMSNormalization"


def _dropout_faults(layer: Any) -> Iterator[str]:
    shape = layer.noise_shape
    if shape is not None and shape[0] is not None:
        yield f"noise_shape {tuple(shape)} fixes the size of a batch; begin it with None"


def _lambda_faults(layer: Any) -> Iterator[str]:
    """By tracing it: its code is unknown."""
    try:
        specs = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), layer.input)
        graph = tf.function(layer.call).get_concrete_function(specs).graph
    except Exception as error:  # somebody's code
        yield f"its function cannot be traced ({first_line(error)})"
        return
    unknown = sorted({op.type for op in graph.get_operations()} - TRACEABLE)
    if unknown:
        yield f"its function uses {', '.join(unknown)}, which phones lack or fedfer does not know; replace it"


def _attention_faults(layer: Any) -> Iterator[str]:
    if layer.dropout:
        yield "its own dropout draws numbers that phones cannot; put a Dropout layer after it"


CHECKS: dict[type, Callable[[Any], Iterator[str]]] = {
    keras.layers.RNN: _recurrent_faults,
    keras.layers.Attention: _attention_faults,
    keras.layers.UpSampling2D: _resizing_faults,
    keras.layers.Resizing: _resizing_faults,
    keras.layers.Conv1DTranspose: _transposed_faults,
    keras.layers.Conv2DTranspose: _transposed_faults,
    keras.layers.GroupNormalization: _group_faults,
    keras.layers.LayerNormalization: _layer_norm_faults,
    keras.layers.Dropout: _dropout_faults,
    keras.layers.Lambda: _lambda_faults,
}
# Operators of TensorFlow that a Lambda may be made of.
TRACEABLE = {
    *("Placeholder", "Const", "Identity", "NoOp", "Cast", "Shape", "StopGradient", "ReadVariableOp"),
    *("AddV2", "Sub", "Mul", "RealDiv", "Neg", "SquaredDifference", "Maximum", "Minimum", "Pow", "AddN"),
    *("Abs", "Sign", "Floor", "Square", "Sqrt", "Rsqrt", "Exp", "Expm1", "Log", "Log1p", "Sin", "Cos"),
    *("Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Softplus", "Softsign", "Sigmoid", "Tanh", "Softmax"),
    *("LogSoftmax", "SelectV2", "Greater", "GreaterEqual", "Less", "LessEqual", "Equal", "NotEqual"),
    *("Sum", "Mean", "Max", "Min", "Reshape", "Transpose", "ExpandDims", "Squeeze", "StridedSlice", "Slice"),
    *("ConcatV2", "Pack", "Unpack", "Split", "SplitV", "Pad", "PadV2", "Tile", "ReverseV2", "BroadcastTo"),
    *("GatherV2", "Cumsum", "MatMul", "BatchMatMulV2", "BiasAdd", "Conv2D", "DepthwiseConv2dNative"),
    *("MaxPool", "AvgPool", "ResizeBilinear", "ResizeNearestNeighbor", "DepthToSpace", "SpaceToDepth"),
    *("ZerosLike", "OnesLike", "ArgMax", "OneHot", "LogicalAnd", "LogicalOr", "LogicalNot", "ClipByValue"),
}
