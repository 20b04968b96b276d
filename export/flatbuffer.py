"""Reading a `.tflite` flatbuffer without an interpreter: metadata, signatures, operators.

Uses the schema classes of the `tflite` package, which follow offsets without looking. A damaged or hostile
file raises ModelFileError, never another error, and takes no more time or memory than an honest one may:
tables that share their parts cannot make a small file long.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import tflite

from fedfer.model.errors import ModelFileError

T = TypeVar("T")
MAX_ENTRIES = 100_000  # read from one file: operators, tensors of signatures, metadata
MAX_NAME_CHARS = 1_000
MAX_RANK = 16


def _names_of(enumeration: type) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if not name.startswith("_")}


_OPERATOR_NAMES = _names_of(tflite.BuiltinOperator)
_TENSOR_TYPES = _names_of(tflite.TensorType)


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


class _UnfitError(Exception):
    """What a file says of itself that cannot be, in words for people."""


@dataclass
class _Limits:
    """How much a reader may still take from a file."""

    entries: int = MAX_ENTRIES

    def each(self, length: int, entry: Callable[[int], T]) -> Iterator[T]:
        """The entries of one vector. Raises _UnfitError when the file holds too many altogether."""
        for i in range(length):
            self.entries -= 1
            if self.entries < 0:
                raise _UnfitError(f"more than {MAX_ENTRIES} entries")
            yield entry(i)


def _guarded(read: Callable[[tflite.Model], T], data: bytes) -> T:
    """Runs a reader over the root table; whatever a damaged file makes it raise becomes ModelFileError."""
    if len(data) < 8 or data[4:8] != b"TFL3":
        raise ModelFileError("not a .tflite file (its identifier TFL3 is missing); expected one")
    try:
        return read(tflite.Model.GetRootAs(data, 0))
    except _UnfitError as error:
        raise ModelFileError(f"damaged .tflite file ({error}); export or copy it again") from None
    except Exception:  # flatbuffers raises struct.error, IndexError, TypeError, ... with words of its own
        raise ModelFileError(
            f"damaged .tflite file: its {len(data):,} bytes refer to places that are not in it, as when a "
            "copy was cut off; export or copy it again"
        ) from None


def metadata(data: bytes) -> dict[str, bytes]:
    """Metadata entries by name."""

    def read(model: tflite.Model) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        left = len(data)
        for entry in _Limits().each(model.MetadataLength(), model.Metadata):
            buffer = model.Buffers(entry.Buffer())
            left -= buffer.DataLength()
            if left < 0:
                raise _UnfitError("metadata longer than the file")
            if buffer.DataLength():
                found[_text(entry.Name())] = buffer.DataAsNumpy().tobytes()
        return found

    return _guarded(read, data)


def signatures(data: bytes) -> tuple[SignatureInfo, ...]:
    """Signatures with their tensors, in the file's order."""

    def read(model: tflite.Model) -> tuple[SignatureInfo, ...]:
        limits = _Limits()
        found = limits.each(model.SignatureDefsLength(), model.SignatureDefs)
        return tuple(_signature(model, signature, limits) for signature in found)

    return _guarded(read, data)


def _signature(model: tflite.Model, signature: tflite.SignatureDef, limits: _Limits) -> SignatureInfo:
    subgraph = model.Subgraphs(signature.SubgraphIndex())

    def tensors(length: int, entry: Callable[[int], tflite.TensorMap]) -> tuple[TensorInfo, ...]:
        found = (_tensor(subgraph, mapped) for mapped in limits.each(length, entry))
        return tuple(sorted(found, key=lambda tensor: tensor.name))

    return SignatureInfo(
        _text(signature.SignatureKey()),
        tensors(signature.InputsLength(), signature.Inputs),
        tensors(signature.OutputsLength(), signature.Outputs),
    )


def _tensor(subgraph: tflite.SubGraph, mapped: tflite.TensorMap) -> TensorInfo:
    info = subgraph.Tensors(mapped.TensorIndex())
    length, size = info.ShapeSignatureLength(), info.ShapeSignature
    if not length:
        length, size = info.ShapeLength(), info.Shape
    if length > MAX_RANK:
        raise _UnfitError(f"a tensor of {length} dimensions")
    shape = tuple(int(size(i)) for i in range(length))
    return TensorInfo(
        _text(mapped.Name()), shape, _TENSOR_TYPES.get(info.Type(), f"UNKNOWN:{info.Type()}").lower()
    )


def op_census(data: bytes) -> dict[str, int]:
    """How often each operator occurs, over all subgraphs; custom ops as `CUSTOM:name`."""

    def read(model: tflite.Model) -> dict[str, int]:
        limits = _Limits()
        names = [_op_name(code) for code in limits.each(model.OperatorCodesLength(), model.OperatorCodes)]
        count: Counter[str] = Counter()
        for subgraph in limits.each(model.SubgraphsLength(), model.Subgraphs):
            operators = limits.each(subgraph.OperatorsLength(), subgraph.Operators)
            count.update(names[operator.OpcodeIndex()] for operator in operators)
        return dict(sorted(count.items(), key=lambda item: (-item[1], item[0])))

    return _guarded(read, data)


def _op_name(code: tflite.OperatorCode) -> str:
    builtin = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    if builtin == tflite.BuiltinOperator.CUSTOM:
        return f"CUSTOM:{_text(code.CustomCode())}"
    return _OPERATOR_NAMES.get(builtin, f"UNKNOWN:{builtin}")


def is_builtin_only(census: dict[str, int]) -> bool:
    """Whether a stock runtime can run it: no Flex and no custom op."""
    return not any(name.startswith(("CUSTOM:", "UNKNOWN:")) for name in census)


def _text(raw: bytes) -> str:
    """A name for a terminal: bounded, without control characters."""
    if len(raw) > MAX_NAME_CHARS:
        raise _UnfitError(f"a name of {len(raw)} characters")
    text = raw.decode()
    return text if text.isprintable() else ascii(text)[1:-1]
