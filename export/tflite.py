"""A Keras model -> one `.tflite` with training signatures, builtin operators only, its contract inside."""

import re
import tempfile
import warnings
from typing import Any

import flatbuffers
import keras
import numpy as np
import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema

from fedfer.export.checkpoint import checkpoint_bytes, digest_of
from fedfer.export.contract import METADATA_NAME, Contract, TrainingSettings
from fedfer.export.schedule import Operator, schedule
from fedfer.export.signatures import TrainableModel, short_name
from fedfer.model.errors import ExportError

BUFFER_ALIGNMENT_BYTES = 16  # what the schema asks for; the generated Python packer forgets it


def convert(model: keras.Model, labels: tuple[str, ...], settings: TrainingSettings) -> bytes:
    """The `.tflite` file's bytes. Raises ExportError with the op that stands in the way."""
    contract = make_contract(model, labels, settings)
    trainable = TrainableModel(model, settings)
    with tempfile.TemporaryDirectory() as directory, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's own deprecations
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        signatures = trainable.signatures()
        tf.saved_model.save(trainable, directory, signatures, options)
        converter = tf.lite.TFLiteConverter.from_saved_model(directory, signature_keys=list(signatures))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        converter.experimental_enable_resource_variables = True
        try:
            content: bytes = converter.convert()
        except Exception as error:  # the converter raises whatever MLIR says
            raise ExportError(_refusal(str(error))) from None
    return finish(content, contract)


def _refusal(message: str) -> str:
    """What stands in the way, in one line, of the pages that the converter says."""
    missing = sorted(set(re.findall(r"'tf\.(\w+)' op is neither", message)))
    if missing:
        return (
            f"training this model needs operators that phones lack: {', '.join(missing)}; "
            "replace the layers that they come from"
        )
    return f"TensorFlow cannot convert the model: {(message.strip().splitlines() or [''])[0][:300]}"


def make_contract(model: keras.Model, labels: tuple[str, ...], settings: TrainingSettings) -> Contract:
    """The contract of an export of `model`. Raises ExportError for shapes that do not fit."""
    shape, outputs = model.input_shape, model.output_shape
    if not isinstance(shape, tuple) or len(shape) != 4 or None in shape[1:]:
        raise ExportError(f"input shape {shape}; expected one image input (None, height, width, channels)")
    if outputs != (None, len(labels)):
        raise ExportError(f"output shape {outputs}; expected (None, {len(labels)}), one probability a label")
    trainable = TrainableModel(model, settings)
    weights = {spec.name: np.asarray(w) for spec, w in zip(trainable.specs, model.weights, strict=True)}
    fields: dict[str, Any] = {
        "model_name": model.name,
        "image_shape": tuple(shape[1:]),
        "labels": labels,
        "weights": tuple(trainable.specs),
        "training": settings,
    }
    # The checkpoint names the contract and the contract the checkpoint: its tensors alone go into the name.
    unnamed = Contract(**fields, initial_weights="")
    return Contract(**fields, initial_weights=digest_of(checkpoint_bytes(weights, unnamed)))


def finish(content: bytes, contract: Contract) -> bytes:
    """Puts checkpoint names on `save` and `restore` and the contract into the metadata, sorts the operators
    (fedfer.export.schedule) and drops the names of tensors in between, which take 1 % of the file."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    names = {short_name(i): weight.name for i, weight in enumerate(contract.weights)}
    for signature in model.signatureDefs:
        if signature.signatureKey in (b"save", b"restore"):
            for mapped in [*signature.inputs, *signature.outputs]:
                mapped.name = names.get(mapped.name.decode(), mapped.name.decode())
    for subgraph in model.subgraphs:
        subgraph.operators = [subgraph.operators[i] for i in schedule(_operators(model, subgraph))]
        for number in set(range(len(subgraph.tensors))) - {*subgraph.inputs, *subgraph.outputs}:
            subgraph.tensors[number].name = None
    _add_metadata(model, contract)
    builder = flatbuffers.Builder(len(content) + 2**20)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _add_metadata(model: schema.ModelT, contract: Contract) -> None:
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(contract.canonical_json(), np.uint8)
    model.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name, entry.buffer = METADATA_NAME, len(model.buffers) - 1
    model.metadata = [*(model.metadata or []), entry]
    model.description = f"{contract.model_name}, exported by fedfer"
    for packed in model.buffers:
        packed.__class__ = AlignedBuffer


def _operators(model: schema.ModelT, subgraph: schema.SubGraphT) -> list[Operator]:
    """The subgraph's operators as plain data, with the variables that they read and write."""
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    variables: dict[int, str] = {}
    found = []
    for op in subgraph.operators:
        code = codes[op.opcodeIndex]
        if code == schema.BuiltinOperator.VAR_HANDLE:
            variables[op.outputs[0]] = op.builtinOptions.sharedName.decode()
        variable = variables.get(op.inputs[0]) if op.inputs is not None and len(op.inputs) else None
        found.append(
            Operator(
                inputs=tuple(int(i) for i in (op.inputs if op.inputs is not None else [])),
                outputs=tuple(int(i) for i in (op.outputs if op.outputs is not None else [])),
                reads=variable if code == schema.BuiltinOperator.READ_VARIABLE else None,
                writes=variable if code == schema.BuiltinOperator.ASSIGN_VARIABLE else None,
                first=code == schema.BuiltinOperator.CALL_ONCE,
            )
        )
    return found


class AlignedBuffer(schema.BufferT):  # type: ignore[misc]
    """A buffer whose data is laid on a 16-byte boundary of the file."""

    def Pack(self, builder: flatbuffers.Builder) -> int:
        data = None
        if self.data is not None:
            content = np.asarray(self.data, np.uint8).tobytes()
            builder.StartVector(1, len(content), BUFFER_ALIGNMENT_BYTES)
            builder.head = builder.head - len(content)
            builder.Bytes[builder.head : builder.head + len(content)] = content
            data = builder.EndVector()
        schema.BufferStart(builder)
        if data is not None:
            schema.BufferAddData(builder, data)
        offset: int = schema.BufferEnd(builder)
        return offset
