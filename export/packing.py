"""What is done to a converted `.tflite` before it is written: names, order, contract, and fewer bytes.

The converter names every tensor, gives each an empty buffer of its own and stores zeros at full length.
What is left out here changes nothing that runs: tensors that operators compute share buffer 0, as the schema
means it, constants of equal bytes share one buffer, and long zeros, an optimizer's slots, become FILL.
"""

from collections import Counter
from typing import Any

import flatbuffers
import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

from fedfer.export.contract import METADATA_NAME, STATE_SIGNATURES, Contract
from fedfer.export.memory import complete_shapes, make_again, operator_codes, sort_operators

BUFFER_ALIGNMENT_BYTES = 16  # what the schema asks for; the generated Python packer forgets it
MIN_FILL_BYTES = 4096  # shorter zeros cost less than an operator
NAMED_SIGNATURES = ("save", "restore", *STATE_SIGNATURES)
KEPT_METADATA = b"min_runtime_version"


def finish(
    content: bytes, contract: Contract, weight_names: dict[str, str], half_precision: bool = False
) -> bytes:
    """The file's final bytes: `weight_names` (by the names that the converter knows) on `save`, `restore`
    and the like, the contract in the metadata, operators as fedfer.export.memory arranges them, everything
    small. With `half_precision`, constants that float16 can hold exactly are stored so."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for signature in model.signatureDefs:
        if signature.signatureKey.decode() in NAMED_SIGNATURES:
            for mapped in [*signature.inputs, *signature.outputs]:
                mapped.name = weight_names.get(mapped.name.decode(), mapped.name.decode())
    fill_zeros(model)
    if half_precision:
        store_as_float16(model)
    make_again(model)
    for subgraph in model.subgraphs:
        complete_shapes(subgraph)
        sort_operators(model, subgraph)
        strip(subgraph)
    description = f"{contract.model_name}, exported by fedfer"
    add_metadata(model, METADATA_NAME, contract.canonical_json(), description)
    drop_zero_options(model)
    number_by_frequency(model)
    share_buffers(model)
    return pack(model)


def strip(subgraph: schema.SubGraphT) -> None:
    """Drops what no runtime reads: names of tensors in between, empty quantisation."""
    ends = {*subgraph.inputs, *subgraph.outputs}
    for number, tensor in enumerate(subgraph.tensors):
        if number not in ends:
            tensor.name = None
        quantized = tensor.quantization
        if quantized is not None and quantized.scale is None and quantized.details is None:
            tensor.quantization = None
        if tensor.shapeSignature is not None and min(tensor.shapeSignature, default=0) >= 0:
            tensor.shapeSignature = None  # says the same as `shape`


def drop_zero_options(model: schema.ModelT) -> None:
    """Leaves out options of operators that hold nothing but zeros: what is missing, a runtime reads as zero.
    (`pot_scale_int16` says how 16-bit integers are added; there are none.)"""
    for subgraph in model.subgraphs:
        for op in subgraph.operators:
            options = {} if op.builtinOptions is None else vars(op.builtinOptions)
            if all(_is_zero(value) for name, value in options.items() if name != "potScaleInt16"):
                op.builtinOptions, op.builtinOptionsType = None, schema.BuiltinOptions.NONE


def _is_zero(option: object) -> bool:
    return option is None or (isinstance(option, int | float) and option == 0)


def number_by_frequency(model: schema.ModelT) -> None:
    """The operator that occurs most becomes kind 0, which need not be written down where it occurs."""
    operators = [op for subgraph in model.subgraphs for op in subgraph.operators]
    order = [kind for kind, _ in Counter(op.opcodeIndex for op in operators).most_common()]
    model.operatorCodes = [model.operatorCodes[kind] for kind in order]
    for op in operators:
        op.opcodeIndex = order.index(op.opcodeIndex)


def share_buffers(model: schema.ModelT) -> None:
    """One buffer for equal bytes, buffer 0 for none."""
    content = {0: b""}
    number_of = {b"": 0}

    def shared(number: int) -> int:
        data = model.buffers[number].data
        data = b"" if data is None else np.asarray(data, np.uint8).tobytes()
        if data not in number_of:
            number_of[data] = len(content)
            content[number_of[data]] = data
        return number_of[data]

    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            tensor.buffer = shared(tensor.buffer)
    for entry in model.metadata:
        entry.buffer = shared(entry.buffer)
    model.buffers = [AlignedBuffer() for _ in content]
    for number, data in content.items():
        model.buffers[number].data = np.frombuffer(data, np.uint8) if data else None


def fill_zeros(model: schema.ModelT) -> None:
    """Long constants of zeros that a variable is set to become FILL, in the subgraphs that do so."""
    codes = operator_codes(model)
    for subgraph in model.subgraphs:
        constants = [
            int(op.inputs[1])
            for op in subgraph.operators
            if codes[op.opcodeIndex] == schema.BuiltinOperator.ASSIGN_VARIABLE
        ]
        for number in sorted(set(constants)):
            tensor = subgraph.tensors[number]
            data = model.buffers[tensor.buffer].data
            if data is not None and len(data) >= MIN_FILL_BYTES and not np.any(data):
                sizes = constant(model, subgraph, np.array(tensor.shape, np.int32))
                zero = constant(model, subgraph, np.zeros((), np.float32))
                tensor.buffer = 0
                fill = operator(model, schema.BuiltinOperator.FILL, [sizes, zero], [number])
                fill.builtinOptionsType, fill.builtinOptions = (
                    schema.BuiltinOptions.FillOptions,
                    schema.FillOptionsT(),
                )
                subgraph.operators.insert(0, fill)


def store_as_float16(model: schema.ModelT) -> None:
    """Long float32 constants whose every number is a float16 become such, with a DEQUANTIZE behind them."""
    for subgraph in model.subgraphs:
        for number in range(len(subgraph.tensors)):
            tensor = subgraph.tensors[number]
            data = model.buffers[tensor.buffer].data
            if tensor.type != schema.TensorType.FLOAT32 or data is None or len(data) < MIN_FILL_BYTES:
                continue
            exact = np.asarray(data, np.uint8).view(np.float32)
            halves = exact.astype(np.float16)
            if np.array_equal(halves.astype(np.float32), exact):
                half = constant(model, subgraph, halves.reshape(tensor.shape))
                tensor.buffer = 0
                subgraph.operators.insert(
                    0, operator(model, schema.BuiltinOperator.DEQUANTIZE, [half], [number], version=3)
                )


TENSOR_TYPES = {
    "float32": schema.TensorType.FLOAT32,
    "float16": schema.TensorType.FLOAT16,
    "int32": schema.TensorType.INT32,
}


def constant(model: schema.ModelT, subgraph: schema.SubGraphT, value: np.ndarray[Any, Any]) -> int:
    """Adds a constant tensor; its number in the subgraph."""
    buffer, tensor = schema.BufferT(), schema.TensorT()
    buffer.data = np.frombuffer(value.tobytes(), np.uint8)
    model.buffers.append(buffer)
    tensor.shape, tensor.type = np.array(value.shape, np.int32), TENSOR_TYPES[value.dtype.name]
    tensor.buffer, tensor.hasRank = len(model.buffers) - 1, True
    subgraph.tensors.append(tensor)
    return len(subgraph.tensors) - 1


def operator(
    model: schema.ModelT, code: int, inputs: list[int], outputs: list[int], version: int = 1
) -> schema.OperatorT:
    """A new operator of this builtin code between these tensors, not yet placed."""
    codes = operator_codes(model)
    if code not in codes:
        kind = schema.OperatorCodeT()
        kind.builtinCode, kind.deprecatedBuiltinCode, kind.version = code, min(code, 127), version
        model.operatorCodes.append(kind)
        codes.append(code)
    made = schema.OperatorT()
    made.opcodeIndex = codes.index(code)
    made.inputs, made.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
    return made


def pack(model: schema.ModelT) -> bytes:
    """The flatbuffer's bytes."""
    written: dict[object, int] = {}
    for subgraph in model.subgraphs:
        subgraph.tensors = [_Once(tensor, written) for tensor in subgraph.tensors]
        for op in subgraph.operators:
            if op.builtinOptions is not None:
                op.builtinOptions = _Once(op.builtinOptions, written)
    builder = SharingBuilder(2**20)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def add_metadata(model: schema.ModelT, name: str, content: bytes, description: str) -> None:
    """One entry of ours; of the converter's only the oldest runtime that will do is kept."""
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(content, np.uint8)
    model.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name, entry.buffer = name.encode(), len(model.buffers) - 1
    kept = [old for old in model.metadata or [] if old.name == KEPT_METADATA]
    model.metadata = [*kept, entry]
    model.description = description


class _Once:
    """A table of the file that is written once, however many equal ones there are: a tensor in between is no
    more than its shape and type. (Offsets may meet in a flatbuffer.)"""

    def __init__(self, table: Any, written: dict[object, int]) -> None:
        self._table = table
        self._written = written

    def Pack(self, builder: flatbuffers.Builder) -> int:
        key = (type(self._table), repr(sorted(vars(self._table).items())))
        if key not in self._written:
            self._written[key] = self._table.Pack(builder)
        return self._written[key]


class SharingBuilder(flatbuffers.Builder):  # type: ignore[misc]
    """Writes each string and each vector of numbers once: most shapes and names occur hundreds of times."""

    def __init__(self, num_bytes: int) -> None:
        super().__init__(num_bytes)
        self._strings: dict[bytes | str, int] = {}
        self._vectors: dict[tuple[str, bytes], int] = {}

    def CreateString(self, s: bytes | str, *args: Any) -> int:
        if s not in self._strings:
            self._strings[s] = super().CreateString(s, *args)
        return self._strings[s]

    def CreateNumpyVector(self, x: np.ndarray[Any, Any]) -> int:
        key = (x.dtype.str, x.tobytes())
        if key not in self._vectors:
            self._vectors[key] = super().CreateNumpyVector(x)
        return self._vectors[key]


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
