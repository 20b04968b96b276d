"""A Keras model -> one `.tflite` with training signatures, builtin operators only, its contract inside."""

import re
import tempfile
import warnings
from typing import Any

import keras
import numpy as np
import safetensors.numpy
import tensorflow as tf

from fedfer.export.checkpoint import checkpoint_bytes, digest_of
from fedfer.export.contract import Contract, TrainingSettings
from fedfer.export.ending import refuse_logits
from fedfer.export.loss_settings import BINARY, SPARSE
from fedfer.export.packing import finish
from fedfer.export.refusal import layers_with, refuse
from fedfer.export.signatures import TrainableModel, full_names, weight_specs
from fedfer.export.tokens import vocabulary_size
from fedfer.export.trainable import frozen_values, travelling_weights
from fedfer.model.errors import ExportError, FedferError, first_line


def convert(
    model: keras.Model, labels: tuple[str, ...], settings: TrainingSettings, half_precision: bool = False
) -> bytes:
    """The `.tflite` file's bytes. Raises ExportError with the op that stands in the way. `half_precision`:
    weights that float16 can hold exactly (see `round_to_float16`) are stored so."""
    refuse(model)
    contract = make_contract(model, labels, settings)
    refuse_logits(model, settings.loss)
    trainable = TrainableModel(model, contract)
    content = _converted(trainable, model)
    return finish(content, contract, full_names(contract), half_precision)


def _converted(trainable: TrainableModel, model: keras.Model) -> bytes:
    """What TensorFlow's converter makes of the signatures. Raises ExportError."""
    with tempfile.TemporaryDirectory() as directory, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's own deprecations
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        signatures: dict[str, tf.types.experimental.ConcreteFunction] = {}
        try:
            signatures = trainable.signatures()
            tf.saved_model.save(trainable, directory, signatures, options)
            converter = tf.lite.TFLiteConverter.from_saved_model(directory, signature_keys=list(signatures))
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
            converter.experimental_enable_resource_variables = True
            # Either reads and writes the whole file once more, in Python: `finish` drops what the one writes
            # about the conversion, and does what is left of the other, equal constants once.
            converter.exclude_conversion_metadata = True
            converter._optimize_tflite_model = lambda content, *_, **__: content
            content: bytes = converter.convert()
        except ExportError as error:  # Keras makes pages of what is raised inside a layer
            raise ExportError(first_line(error)) from None
        except FedferError:
            raise
        except Exception as error:  # layers raise whatever they do, the converter whatever MLIR says
            graph = signatures["train"].graph if signatures else tf.Graph()
            raise ExportError(_refusal(error, graph, model)) from None
    return content


def round_to_float16(model: keras.Model) -> None:
    """Rounds the weights in place, vectors excepted: biases and BatchNorm's numbers are few and sensitive.

    Raises ExportError for weights beyond float16's 65504."""
    rounded = [w.astype(np.float16).astype(np.float32) if w.ndim > 1 else w for w in model.get_weights()]
    if not all(np.isfinite(w).all() for w in rounded):
        raise ExportError("float16 cannot hold weights beyond 65504; export them as float32")
    model.set_weights(rounded)


def _refusal(error: Exception, graph: tf.Graph, model: keras.Model) -> str:
    """What stands in the way, in one line, of the pages that the converter says."""
    message = str(error)
    missing = sorted(set(re.findall(r"'tf\.(\w+)' op is neither", message)))
    if missing:
        layers = layers_with(graph, missing, model)
        found = f"the layers that they come from: {', '.join(layers)}" if layers else _functions(model)
        return f"training this model needs operators that phones lack: {', '.join(missing)}; replace {found}"
    if "TensorList" in message:
        layers = layers_with(graph, ["While", "StatelessWhile"], model)
        return (
            "phones cannot train a loop: its gradient needs a stack of unknown depth; lay its steps out, one "
            f"after the other{': ' if layers else ''}{', '.join(layers)}"
        )
    return f"TensorFlow cannot convert the model: {first_line(error)}"


def _functions(model: keras.Model) -> str:
    """Of what is in no layer: the functions of keras.ops that the model calls between its layers."""
    called = {type(op).__name__ for op in getattr(model, "operations", []) if not isinstance(op, keras.Layer)}
    return (
        f"them among its functions of keras.ops: {', '.join(sorted(called))}" if called else "what uses them"
    )


def make_contract(model: keras.Model, labels: tuple[str, ...], settings: TrainingSettings) -> Contract:
    """The contract of an export of `model`. Raises ExportError for shapes that do not fit."""
    shape, outputs = model.input_shape, model.output_shape
    if not isinstance(shape, tuple) or not 2 <= len(shape) <= 4 or None in shape[1:]:
        raise ExportError(
            f"input shape {shape}; expected one input of fixed size: images (None, height, width, channels), "
            "sequences (None, steps, channels) or rows (None, columns)"
        )
    if shape[0] is not None:
        raise ExportError(
            f"input shape {shape} fixes the size of a batch; give keras.Input its shape, not a batch_shape"
        )
    specs = weight_specs(model)
    travelling = travelling_weights(model)
    weights = {spec.name: np.asarray(w) for spec, w in zip(specs, travelling, strict=True)}
    frozen = frozen_values(model)
    wrong = [name for name, value in (weights | frozen).items() if not np.isfinite(value).all()]
    if wrong:
        raise ExportError(f"weights {wrong[:3]} hold NaN or infinity; expected numbers to start from")
    fields: dict[str, Any] = {
        "model_name": model.name,
        "image_shape": tuple(shape[1:]),
        "labels": labels,
        "weights": tuple(specs),
        "training": settings,
        "num_frozen": sum(value.size for value in frozen.values()),
        "frozen_weights": digest_of(safetensors.numpy.save(frozen)) if frozen else "",
        "pixel_divisor": 255.0 if vocabulary_size(model) is None else 1.0,
    }
    # The checkpoint names the contract and the contract the checkpoint: its tensors alone go into the name.
    unnamed = Contract(**fields, initial_weights="")
    if outputs != (None, unnamed.num_outputs):
        raise ExportError(f"output shape {outputs}; expected {_expected_outputs(outputs, unnamed)}")
    settings.loss.check_outputs(unnamed.num_outputs)
    return Contract(**fields, initial_weights=digest_of(checkpoint_bytes(weights, unnamed)))


def _expected_outputs(outputs: Any, contract: Contract) -> str:
    """The shape, and what brings a model there that has another."""
    expected = f"(None, {contract.num_outputs}), one a label"
    if outputs == (None, 2) and contract.num_outputs == 1:
        return (
            f"(None, 1): with 2 labels {BINARY} takes one output, which tells them apart, and two answers of "
            "their own cannot be exported (three can); end the model in one unit, or in a softmax over 2 "
            f"classes or over the 4 pairs of answers with --loss {SPARSE}"
        )
    if isinstance(outputs, tuple) and len(outputs) > 2:
        pooling = {3: " or GlobalAveragePooling1D", 4: " or GlobalAveragePooling2D"}.get(len(outputs), "")
        return f"{expected}, not at each place; put Flatten{pooling} before the last layer"
    return expected
