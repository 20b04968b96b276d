"""Reading `.tflite` files without an interpreter: honest ones, and damaged and hostile ones."""

import random
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
import tflite
from hypothesis import given
from hypothesis import strategies as st

from fedfer.export.contract import SIGNATURES, read_contract
from fedfer.export.flatbuffer import (
    MAX_ENTRIES,
    TensorInfo,
    is_builtin_only,
    metadata,
    op_census,
    signatures,
)
from fedfer.model.errors import ModelFileError

READERS: list[Callable[[bytes], object]] = [metadata, signatures, op_census]
ALIGNMENT_BYTES = 16  # what the schema's Buffer.data asks for
MOST_SEC = (
    10.0  # for one hostile file; the limits of fedfer.export.flatbuffer keep it near 1; of this process alone
)


@pytest.fixture(scope="session")
def tiny_bytes(tiny_tflite: Path) -> bytes:
    return tiny_tflite.read_bytes()


def test_signatures_of_an_export(tiny_bytes: bytes) -> None:
    found = {signature.name: signature for signature in signatures(tiny_bytes)}
    weights = tuple(
        TensorInfo(spec.name, spec.shape, spec.dtype)
        for spec in sorted(read_contract(tiny_bytes).weights, key=lambda spec: spec.name)
    )
    images = TensorInfo("images", (-1, 48, 48, 1), "float32")
    assert set(found) == set(SIGNATURES)
    assert found["train"].inputs == (
        images,
        TensorInfo("labels", (-1,), "int32"),
        TensorInfo("learning_rate", (1,), "float32"),
        TensorInfo("seed", (1,), "int32"),
    )
    assert [tensor.name for tensor in found["train"].outputs] == ["accuracy", "loss"]
    assert found["infer"].inputs == (images,)
    assert found["infer"].outputs == (TensorInfo("probabilities", (-1, 7), "float32"),)
    assert found["save"].inputs == (TensorInfo("request", (1,), "int32"),)
    assert found["save"].outputs == weights
    assert found["restore"].inputs == weights
    assert found["restore"].outputs == (TensorInfo("restored", (1,), "int32"),)


def test_census_of_an_export(tiny_bytes: bytes) -> None:
    census = op_census(tiny_bytes)
    assert is_builtin_only(census)
    assert census["MAX_POOL_2D"] == 4  # two in `train`, two in `infer`
    assert census["SOFTMAX"] == 2  # in `infer`, and in the gradient of `train`
    assert sum(census.values()) == len(all_operators(tiny_bytes))


def all_operators(data: bytes) -> list[tflite.Operator]:
    model = tflite.Model.GetRootAs(data, 0)
    subgraphs = [model.Subgraphs(i) for i in range(model.SubgraphsLength())]
    return [subgraph.Operators(j) for subgraph in subgraphs for j in range(subgraph.OperatorsLength())]


def test_metadata_of_an_export(tiny_bytes: bytes) -> None:
    entries = metadata(tiny_bytes)
    assert entries["fedfer.contract"] == read_contract(tiny_bytes).canonical_json()
    assert entries["min_runtime_version"].rstrip(b"\0").decode()


def test_every_buffer_is_aligned(tiny_bytes: bytes) -> None:
    model = tflite.Model.GetRootAs(tiny_bytes, 0)
    whole = np.frombuffer(tiny_bytes, np.uint8)
    buffers = [model.Buffers(i) for i in range(model.BuffersLength())]
    places = [
        buffer.DataAsNumpy().ctypes.data - whole.ctypes.data for buffer in buffers if buffer.DataLength()
    ]
    assert len(places) > 16
    assert [place for place in places if place % ALIGNMENT_BYTES] == []


@pytest.mark.parametrize("census", [{"CUSTOM:FlexSave": 1}, {"ADD": 3, "CUSTOM:Mine": 1}, {"UNKNOWN:900": 1}])
def test_foreign_operators_are_seen(census: dict[str, int]) -> None:
    assert not is_builtin_only(census)
    assert is_builtin_only({"ADD": 3, "CONV_2D": 1})


def test_custom_operator_is_named() -> None:
    assert op_census(with_operators(["FlexSave", "\x1b[2J"])) == {"CUSTOM:FlexSave": 1, r"CUSTOM:\x1b[2J": 1}


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("data", [b"", b"TFL3", b"PK\x03\x04" + b"x" * 100, b"\0" * 4 + b"TFL2" + b"\0" * 50])
def test_other_files_are_refused(read: Callable[[bytes], object], data: bytes) -> None:
    with pytest.raises(ModelFileError, match=r"not a \.tflite file"):
        read(data)


def read_or_refuse(data: bytes) -> None:
    for read in READERS:
        with suppress(ModelFileError):
            read(data)


@given(data=st.data())
def test_truncated_files(tiny_bytes: bytes, data: st.DataObject) -> None:
    read_or_refuse(tiny_bytes[: data.draw(st.integers(0, len(tiny_bytes)))])


@given(data=st.data())
def test_damaged_files(tiny_bytes: bytes, data: st.DataObject) -> None:
    damaged = bytearray(tiny_bytes)
    places = st.integers(0, len(damaged) - 1)
    for place, byte in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=20)):
        damaged[place] = byte
    read_or_refuse(bytes(damaged))


def test_damaged_structure(tiny_bytes: bytes) -> None:
    """Words of the tables (not of weights or the contract) replaced by sizes and offsets that mislead."""
    rng = random.Random(0)
    tables = structure_words(tiny_bytes)
    for _ in range(200):
        damaged = bytearray(tiny_bytes)
        word = rng.choice([0, 1, 4, 0x7FFFFFFF, 0xFFFFFFFF, 0x01010101, rng.getrandbits(16)])
        damaged[(place := rng.choice(tables)) : place + 4] = word.to_bytes(4, "little")
        started = time.process_time()
        read_or_refuse(bytes(damaged))
        assert time.process_time() - started < MOST_SEC


def structure_words(data: bytes) -> list[int]:
    """Places of all 4-byte words outside the buffers."""
    model = tflite.Model.GetRootAs(data, 0)
    start = np.frombuffer(data, np.uint8).ctypes.data
    inside = np.zeros(len(data), bool)
    for i in range(model.BuffersLength()):
        if model.Buffers(i).DataLength():
            content = model.Buffers(i).DataAsNumpy()
            inside[content.ctypes.data - start : content.ctypes.data - start + len(content)] = True
    return [
        place for place in range(0, len(data) - 4, 4) if not inside[place : place + 4].any() and place != 4
    ]


def table(builder: flatbuffers.Builder, fields: dict[int, int]) -> int:
    """A table whose `fields` (by number) are offsets."""
    builder.StartObject(8)
    for number, offset in fields.items():
        builder.PrependUOffsetTRelativeSlot(number, offset, 0)
    end: int = builder.EndObject()
    return end


def vector(builder: flatbuffers.Builder, offsets: list[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    end: int = builder.EndVector()
    return end


def finished(builder: flatbuffers.Builder, root: int) -> bytes:
    builder.Finish(root, b"TFL3")
    return bytes(builder.Output())


def with_operators(custom_codes: list[str]) -> bytes:
    """A file whose one subgraph calls each of these custom operators once."""
    builder = flatbuffers.Builder(0)
    codes = []
    for name in custom_codes:
        text = builder.CreateString(name)
        builder.StartObject(4)
        builder.PrependInt8Slot(0, tflite.BuiltinOperator.CUSTOM, 0)
        builder.PrependUOffsetTRelativeSlot(1, text, 0)
        codes.append(builder.EndObject())
    operators = []
    for index in range(len(custom_codes)):
        builder.StartObject(1)
        builder.PrependUint32Slot(0, index, 0)
        operators.append(builder.EndObject())
    subgraph = table(builder, {3: vector(builder, operators)})
    model = table(builder, {1: vector(builder, codes), 2: vector(builder, [subgraph])})
    return finished(builder, model)


def with_shared_subgraph(times: int) -> bytes:
    """One subgraph of `times` references to one operator, referred to `times` times: times**2 operators."""
    builder = flatbuffers.Builder(0)
    code = table(builder, {})
    operators = vector(builder, [table(builder, {})] * times)
    subgraph = table(builder, {3: operators})
    model = table(builder, {1: vector(builder, [code]), 2: vector(builder, [subgraph] * times)})
    return finished(builder, model)


def with_shared_signature(times: int) -> bytes:
    """One signature of `times` references to one input, referred to `times` times."""
    builder = flatbuffers.Builder(0)
    name = builder.CreateString("x")
    inputs = vector(builder, [table(builder, {0: name})] * times)
    subgraph = table(builder, {0: vector(builder, [table(builder, {})])})
    signature = table(builder, {0: inputs, 2: name})
    model = table(builder, {2: vector(builder, [subgraph]), 7: vector(builder, [signature] * times)})
    return finished(builder, model)


def with_shared_metadata(times: int, size: int) -> bytes:
    """`times` metadata entries that all name the same buffer of `size` bytes."""
    builder = flatbuffers.Builder(0)
    buffers = vector(builder, [table(builder, {0: builder.CreateByteVector(bytes(size))})])
    entries = [table(builder, {0: builder.CreateString(f"entry {i}")}) for i in range(times)]
    return finished(builder, table(builder, {4: buffers, 6: vector(builder, entries)}))


def test_a_small_file_cannot_be_long() -> None:
    """Tables that share their parts: 80 kB that stand for 100,000,000 operators or tensors."""
    assert op_census(with_shared_subgraph(20)) == {"ADD": 400}
    assert len(signatures(with_shared_signature(20))[0].inputs) == 20
    for data in (with_shared_subgraph(10_000), with_shared_signature(10_000)):
        assert len(data) < 100_000
        started = time.process_time()
        with pytest.raises(ModelFileError, match=f"more than {MAX_ENTRIES} entries"):
            _ = op_census(data), signatures(data)
        assert time.process_time() - started < MOST_SEC


def test_metadata_cannot_be_longer_than_its_file() -> None:
    assert metadata(with_shared_metadata(1, 1_000)) == {"entry 0": bytes(1_000)}
    with pytest.raises(ModelFileError, match="metadata longer than the file"):
        metadata(with_shared_metadata(1_000, 100_000))


def test_names_are_bounded() -> None:
    with pytest.raises(ModelFileError, match="a name of 5000 characters"):
        op_census(with_operators(["x" * 5_000]))
