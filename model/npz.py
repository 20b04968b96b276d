"""Examples of any kind from a numpy `.npz`: rows of numbers, sequences of tokens, images; with classes.

    inputs    (n, ...): uint8 pixels, which the model's contract divides; or float32 or float64, taken as they
              are; or int32 or int64, numbers of tokens
    labels    (n,) whole numbers 0..255
    owners    (n,) text, whose each is; may be missing

As `numpy.savez` and `numpy.savez_compressed` write it. Nothing is unpickled; sizes are checked before
anything is unpacked.
"""

import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfer.model.data import LabelledImages
from fedfer.model.errors import DataError

MAX_ARRAY_BYTES = 4 * 2**30
MAX_RANK = 4
MAX_LABEL = 255
MAX_TOKEN = 2**24  # float32, as which the model takes them, holds whole numbers up to here
KINDS = {"inputs": "uif", "labels": "ui", "owners": "U"}
# What zipfile and numpy say of files that are something else; NotImplementedError is a RuntimeError.
DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, tokenize.TokenError),
    *(EOFError, OverflowError, RuntimeError, SyntaxError, ValueError),
)
INPUT_TYPES = ("uint8", "float32", "float64", "int32", "int64")


def read_npz(
    path: Path, *, skip: int = 0, take: int | None = None, with_owners: bool = False
) -> LabelledImages:
    """`take` examples after the first `skip` (None: all that follow). Raises DataError, naming the file."""
    try:
        with zipfile.ZipFile(path) as file:
            wanted = ["inputs", "labels", *["owners"] * with_owners]
            missing = [name for name in wanted if f"{name}.npy" not in file.namelist()]
            if missing:
                raise DataError(f"it has no array {missing[0]}; expected inputs and labels")
            arrays = {name: _read_array(file, name) for name in wanted}
        return _examples(arrays, skip, take)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except DAMAGE as error:
        raise DataError(f"{path} is no .npz that numpy.savez wrote: {str(error)[:200]}") from None


def _examples(arrays: dict[str, NDArray[Any]], skip: int, take: int | None) -> LabelledImages:
    """Cut to what is wanted, then checked and brought to the types in which examples travel."""
    inputs, labels = arrays["inputs"], arrays["labels"]
    if not 2 <= inputs.ndim <= MAX_RANK or inputs.dtype.name not in INPUT_TYPES:
        raise DataError(
            f"inputs are {inputs.dtype} {inputs.shape}; expected (n, ...) of {', '.join(INPUT_TYPES)}"
        )
    wrong = [name for name, array in arrays.items() if name != "inputs" and array.shape != inputs.shape[:1]]
    if wrong:
        raise DataError(f"{wrong[0]} are {arrays[wrong[0]].shape}; expected one for each of the inputs")
    end = len(inputs) if take is None else skip + take
    if end > len(inputs) or skip >= end:
        raise DataError(f"{len(inputs)} examples; expected some after the first {skip}, {take or 'all'}")
    chosen = {name: array[skip:end] for name, array in arrays.items()}
    if chosen["labels"].min() < 0 or chosen["labels"].max() > MAX_LABEL:
        raise DataError(f"labels are {labels.min()}..{labels.max()}; expected 0..{MAX_LABEL}")
    return LabelledImages(_numbers(chosen["inputs"]), chosen["labels"].astype(np.uint8), chosen.get("owners"))


def _numbers(inputs: NDArray[Any]) -> NDArray[Any]:
    """uint8 as it is, else float32 or int32. Raises DataError for what they cannot hold."""
    if inputs.dtype.kind == "f":
        with np.errstate(over="ignore"):
            numbers = inputs.astype(np.float32)
        if not np.isfinite(numbers).all():
            raise DataError("inputs hold NaN, infinity or numbers beyond float32; expected finite numbers")
        return numbers
    if inputs.dtype == np.uint8:
        return np.ascontiguousarray(inputs)
    if inputs.min(initial=0) < 0 or inputs.max(initial=0) > MAX_TOKEN:
        raise DataError(f"inputs are {inputs.min()}..{inputs.max()}; expected tokens 0..{MAX_TOKEN}")
    return inputs.astype(np.int32)


def _read_array(file: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """Raises DataError, ValueError and what zipfile raises."""
    entry = file.getinfo(f"{name}.npy")
    if entry.file_size > MAX_ARRAY_BYTES:
        raise DataError(f"{name} takes {entry.file_size} bytes; expected at most {MAX_ARRAY_BYTES}")
    with file.open(entry) as member:
        npy: Any = np.lib.format
        readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        version = npy.read_magic(member)
        if version not in readers:
            raise DataError(f"{name} has npy version {version}; expected 1.0 or 2.0")
        shape, in_columns, dtype = readers[version](member)
        if dtype.kind not in KINDS[name] or in_columns:
            raise DataError(f"{name} are {dtype}{' in columns' * in_columns}; expected numbers, row by row")
        if member.tell() + dtype.itemsize * math.prod(shape) != entry.file_size:
            raise DataError(f"{name} are {dtype} {shape}, which are not its {entry.file_size} bytes")
        return np.frombuffer(member.read(), dtype).reshape(shape)
