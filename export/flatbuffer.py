"""Reading a `.tflite` flatbuffer without an interpreter: metadata, signatures, operators.

Uses the schema classes of the `tflite` package. A damaged file raises ModelFileError, never another error.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import tflite

from fedfer.model.errors import ModelFileError

T = TypeVar("T")
FLEX_PREFIX = "Flex"
_OPERATOR_NAMES: dict[int, str] = {
    value: name for name, value in vars(tflite.BuiltinOperator).items() if not name.startswith("_")
}


@dataclass(frozen=True)
class TensorInfo:
    """A signature's input or output; -1 in `shape` is a size that the caller chooses."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class SignatureInfo:
    name: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]


def _guarded(read: Callable[[tflite.Model], T], data: bytes) -> T:
    """Runs a reader over the root table; whatever a damaged file makes it raise becomes ModelFileError."""
    if len(data) < 8 or data[4:8] != b"TFL3":
        raise ModelFileError("not a .tflite file (its identifier TFL3 is missing); expected one")
    try:
        return read(tflite.Model.GetRootAs(data, 0))
    except Exception as error:  # flatbuffers raises struct.error, IndexError, TypeError, ...
        raise ModelFileError(f"damaged .tflite file ({type(error).__name__}: {error})") from None


def metadata(data: bytes) -> dict[str, bytes]:
    """Metadata entries by name."""

    def read(model: tflite.Model) -> dict[str, bytes]:
        entries = (model.Metadata(i) for i in range(model.MetadataLength()))
        return {
            entry.Name().decode(): model.Buffers(entry.Buffer()).DataAsNumpy().tobytes()
            for entry in entries
            if model.Buffers(entry.Buffer()).DataLength()
        }

    return _guarded(read, data)


def signatures(data: bytes) -> tuple[SignatureInfo, ...]:
    """Signatures with their tensors, in the file's order."""

    def tensor(subgraph: tflite.SubGraph, mapped: tflite.TensorMap) -> TensorInfo:
        info = subgraph.Tensors(mapped.TensorIndex())
        shape = info.ShapeSignatureAsNumpy() if info.ShapeSignatureLength() else info.ShapeAsNumpy()
        sizes = () if isinstance(shape, int) else tuple(int(size) for size in shape)
        return TensorInfo(mapped.Name().decode(), sizes, _dtype_name(info.Type()))

    def read(model: tflite.Model) -> tuple[SignatureInfo, ...]:
        found = []
        for i in range(model.SignatureDefsLength()):
            signature = model.SignatureDefs(i)
            subgraph = model.Subgraphs(signature.SubgraphIndex())
            ins = [tensor(subgraph, signature.Inputs(j)) for j in range(signature.InputsLength())]
            outs = [tensor(subgraph, signature.Outputs(j)) for j in range(signature.OutputsLength())]
            found.append(
                SignatureInfo(
                    signature.SignatureKey().decode(),
                    tuple(sorted(ins, key=lambda t: t.name)),
                    tuple(sorted(outs, key=lambda t: t.name)),
                )
            )
        return tuple(found)

    return _guarded(read, data)


def op_census(data: bytes) -> dict[str, int]:
    """How often each operator occurs, over all subgraphs; custom ops as `CUSTOM:name`."""

    def name(code: tflite.OperatorCode) -> str:
        builtin = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        if builtin == tflite.BuiltinOperator.CUSTOM:
            return f"CUSTOM:{code.CustomCode().decode()}"
        return _OPERATOR_NAMES.get(builtin, f"UNKNOWN:{builtin}")

    def read(model: tflite.Model) -> dict[str, int]:
        names = [name(model.OperatorCodes(i)) for i in range(model.OperatorCodesLength())]
        count: Counter[str] = Counter()
        for i in range(model.SubgraphsLength()):
            subgraph = model.Subgraphs(i)
            for j in range(subgraph.OperatorsLength()):
                count[names[subgraph.Operators(j).OpcodeIndex()]] += 1
        return dict(sorted(count.items(), key=lambda item: (-item[1], item[0])))

    return _guarded(read, data)


def is_builtin_only(census: dict[str, int]) -> bool:
    """Whether a stock runtime can run it: no Flex and no custom op."""
    return not any(name.startswith(("CUSTOM:", "UNKNOWN:")) for name in census)


def _dtype_name(code: int) -> str:
    names = [name for name, value in vars(tflite.TensorType).items() if value == code and name[0] != "_"]
    return names[0].lower() if names else f"unknown:{code}"
