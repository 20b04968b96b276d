"""The contract: golden bytes, round trips, and hostile contracts with the refusal each must get."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfer.export import contract as module
from fedfer.export.contract import (
    MAX_CONTRACT_BYTES,
    MAX_MODEL_BYTES,
    Contract,
    TrainingSettings,
    WeightSpec,
    load_model_bytes,
    parse_contract,
    read_contract,
)
from fedfer.export.loss_settings import LossSettings
from fedfer.export.optimizer_settings import OPTIMIZERS
from fedfer.model.errors import ModelFileError

SMALL = Contract(
    model_name="small",
    image_shape=(2, 3, 1),
    labels=("no", "yes"),
    weights=(
        WeightSpec("dense/kernel", (6, 2), "float32", "trainable"),
        WeightSpec("bn/moving_variance", (2,), "float32", "statistic", nonnegative=True),
        WeightSpec("scale", (), "float32", "trainable"),
    ),
    training=TrainingSettings(learning_rate=0.5),
    initial_weights="0123456789abcdef" * 4,
)
GOLDEN = (
    b'{"format":"fedfer.contract/2","frozen_weights":"","image_shape":[2,3,1],'
    b'"initial_weights":"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",'
    b'"labels":["no","yes"],"model_name":"small","num_frozen":0,"pixel_divisor":255.0,'
    b'"training":{"learning_rate":0.5,"loss":{"class_weights":[],"from_logits":false,"label_smoothing":0.0,'
    b'"name":"sparse_categorical_crossentropy"},"optimizer":{"beta_1":0.9,"beta_2":0.999,"clip_norm":null,'
    b'"epsilon":1e-07,"momentum":0.0,"name":"sgd","nesterov":false,"weight_decay":0.0},"proximal":false},'
    b'"weights":[{"dtype":"float32","name":"dense/kernel","nonnegative":false,"role":"trainable","shape":[6,2]},'
    b'{"dtype":"float32","name":"bn/moving_variance","nonnegative":true,"role":"statistic","shape":[2]},'
    b'{"dtype":"float32","name":"scale","nonnegative":false,"role":"trainable","shape":[]}]}'
)

PRINTABLE = st.characters(exclude_categories=["Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"])
names = st.text(PRINTABLE, min_size=1, max_size=11)  # shorter than "__metadata__"
shapes = st.lists(st.integers(1, 9), max_size=4).map(tuple)
specs = st.builds(
    WeightSpec, names, shapes, st.just("float32"), st.sampled_from(["trainable", "statistic"]), st.booleans()
)
positive = st.floats(1e-6, 1e6)
# Fits any number of outputs; class weights would have to be as many.
losses = st.builds(LossSettings, st.just("binary_crossentropy"), st.booleans(), st.floats(0, 0.9))
contracts = st.builds(
    Contract,
    model_name=names,
    image_shape=st.tuples(*[st.integers(1, 300)] * 3),
    labels=st.lists(names, min_size=1, max_size=5, unique=True).map(tuple),
    weights=st.lists(specs, min_size=1, max_size=5, unique_by=lambda spec: spec.name).map(tuple),
    training=st.builds(TrainingSettings, st.sampled_from(list(OPTIMIZERS.values())), losses, positive),
    initial_weights=st.binary(min_size=32, max_size=32).map(bytes.hex),
    pixel_divisor=positive,
)


def test_golden_bytes_and_digest() -> None:
    assert SMALL.canonical_json() == GOLDEN
    assert SMALL.digest == hashlib.sha256(GOLDEN).hexdigest()
    assert parse_contract(GOLDEN) == SMALL


def test_counts() -> None:
    assert SMALL.num_parameters == 6 * 2 + 2 + 1
    assert SMALL.weights_bytes == 4 * 15


@given(contracts)
def test_round_trip(contract: Contract) -> None:
    parsed = parse_contract(contract.canonical_json())
    assert parsed == contract
    assert parsed.digest == contract.digest


@given(contracts, contracts)
def test_different_contracts_have_different_digests(one: Contract, other: Contract) -> None:
    assert (one.digest == other.digest) == (one == other)


def changed(**fields: Any) -> bytes:
    """SMALL's JSON, canonical but for what `fields` replace at its top level."""
    return encode({**json.loads(GOLDEN), **fields})


def changed_weight(**fields: Any) -> bytes:
    first, *rest = json.loads(GOLDEN)["weights"]
    return changed(weights=[{**first, **fields}, *rest])


def changed_training(**fields: Any) -> bytes:
    return changed(training={**json.loads(GOLDEN)["training"], **fields})


def changed_optimizer(**fields: Any) -> bytes:
    return changed_training(optimizer={**json.loads(GOLDEN)["training"]["optimizer"], **fields})


def changed_loss(**fields: Any) -> bytes:
    return changed_training(loss={**json.loads(GOLDEN)["training"]["loss"], **fields})


def encode(body: object) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


def without(field: str) -> bytes:
    body = json.loads(GOLDEN)
    del body[field]
    return encode(body)


HOSTILE = {
    "empty": b"",
    "not JSON": b"{",
    "not UTF-8": b'{"format":"\xff"}',
    "a list": b"[]",
    "a number": b"7",
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "deep inside": GOLDEN[:-1] + b',"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a number of 5000 digits": GOLDEN.replace(b"255.0", b"9" * 5000),
    "other format": changed(format="fedfer.contract/1"),
    "format missing": without("format"),
    "weights missing": without("weights"),
    "labels missing": without("labels"),
    "image_shape missing": without("image_shape"),
    "training missing": without("training"),
    "initial_weights missing": without("initial_weights"),
    "unknown field": changed(owner="me"),
    "unknown field of a weight": changed_weight(owner="me"),
    "unknown field of training": changed_training(momentum=0.9),
    "a field named twice": GOLDEN.replace(b'"model_name":', b'"model_name":"x","model_name":'),
    "spaces": json.dumps(json.loads(GOLDEN), sort_keys=True).encode(),
    "unsorted": b'{"model_name":"small",' + GOLDEN[1:].replace(b'"model_name":"small",', b""),
    "trailing newline": GOLDEN + b"\n",
    "UTF-16": GOLDEN.decode().encode("utf-16"),
    "model_name a number": changed(model_name=3),
    "model_name empty": changed(model_name=""),
    "model_name long": changed(model_name="x" * 257),
    "model_name that moves the cursor": changed(model_name="\x1b[2J"),
    "model_name half a surrogate": changed(model_name="\ud800"),
    "image_shape of strings": changed(image_shape=["2", "3", "1"]),
    "image_shape a string": changed(image_shape="231"),
    "image_shape of four": changed(image_shape=[2, 3, 1, 1]),
    "image_shape of floats": changed(image_shape=[2.0, 3.0, 1.0]),
    "image_shape with 0": changed(image_shape=[2, 0, 1]),
    "image_shape absurd": changed(image_shape=[2, 2**40, 1]),
    "image_shape null": changed(image_shape=None),
    "labels numbers": changed(labels=[0, 1]),
    "labels lists": changed(labels=[["no"], ["yes"]]),
    "labels none": changed(labels=[]),
    "labels twice": changed(labels=["no", "no"]),
    "labels a string": changed(labels="ab"),
    "pixel_divisor 0": changed(pixel_divisor=0),
    "pixel_divisor NaN": changed(pixel_divisor=float("nan")),
    "pixel_divisor infinite": changed(pixel_divisor=float("inf")),
    "pixel_divisor a string": changed(pixel_divisor="255"),
    "pixel_divisor true": changed(pixel_divisor=True),
    "initial_weights a path": changed(initial_weights="../../etc/passwd"),
    "initial_weights a number": changed(initial_weights=0),
    "initial_weights capitals": changed(initial_weights="A" * 64),
    "initial_weights with newline": changed(initial_weights="a" * 64 + "\n"),
    "frozen_weights of nothing": changed(frozen_weights="a" * 64),
    "frozen_weights missing": changed(num_frozen=3),
    "frozen_weights a path": changed(num_frozen=3, frozen_weights="../../etc/passwd"),
    "num_frozen negative": changed(num_frozen=-1),
    "num_frozen true": changed(num_frozen=True, frozen_weights="a" * 64),
    "weights none": changed(weights=[]),
    "weights an object": changed(weights={"dense": 1}),
    "weights strings": changed(weights=["dense/kernel"]),
    "weight's name a number": changed_weight(name=1),
    "weight's name a list": changed_weight(name=["a"]),
    "weight's name taken": changed_weight(name="scale"),
    "weight's name reserved by safetensors": changed_weight(name="__metadata__"),
    "weight's shape negative": changed_weight(shape=[-1, 2]),
    "weight's shape absurd": changed_weight(shape=[2**20, 2**20]),
    "weight's shape a trillion digits": changed_weight(shape=[10**400]),
    "weight's shape of rank 9": changed_weight(shape=[1] * 9),
    "weight's shape a string": changed_weight(shape="12"),
    "weight's shape of booleans": changed_weight(shape=[True]),
    "weight's shape null": changed_weight(shape=None),
    "weight's dtype other": changed_weight(dtype="float64"),
    "weight's dtype null": changed_weight(dtype=None),
    "weight's role other": changed_weight(role="buffer"),
    "weight's role a list": changed_weight(role=["trainable"]),
    "weight's nonnegative 1": changed_weight(nonnegative=1),
    "training a list": changed(training=["sgd"]),
    "optimizer a number": changed_training(optimizer=1),
    "optimizer unknown": changed_optimizer(name="lion"),
    "optimizer a list": changed_optimizer(name=["sgd"]),
    "optimizer's momentum a string": changed_optimizer(momentum="0.9"),
    "optimizer's momentum 1": changed_optimizer(momentum=1.0),
    "optimizer's epsilon 0": changed_optimizer(epsilon=0.0),
    "optimizer's clip_norm NaN": changed_optimizer(clip_norm=float("nan")),
    "optimizer's nesterov 1": changed_optimizer(nesterov=1),
    "unknown field of the optimizer": changed_optimizer(rho=0.5),
    "proximal 1": changed_training(proximal=1),
    "loss null": changed_training(loss=None),
    "loss unknown": changed_loss(name="hinge"),
    "loss a list": changed_loss(name=["mean_squared_error"]),
    "loss's from_logits 1": changed_loss(from_logits=1),
    "loss's label_smoothing NaN": changed_loss(label_smoothing=float("nan")),
    "loss's label_smoothing a string": changed_loss(label_smoothing="0.1"),
    "loss's class_weights too many": changed_loss(class_weights=[1.0, 2.0, 3.0]),
    "loss's class_weights strings": changed_loss(class_weights=["1", "2"]),
    "loss's class_weights a number": changed_loss(class_weights=2.0),
    "learning_rate negative": changed_training(learning_rate=-0.1),
    "learning_rate a string": changed_training(learning_rate="0.1"),
    "learning_rate a list": changed_training(learning_rate=[0.1]),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_contract_is_refused_in_one_short_line(data: bytes) -> None:
    with pytest.raises(ModelFileError, match=r"contract cannot be read \(.*\); export") as caught:
        parse_contract(data)
    message = str(caught.value)
    assert len(message) < 300
    assert message.isprintable()


def test_tests_change_what_they_say() -> None:
    assert changed() == changed_weight() == changed_training() == GOLDEN
    assert len(set(HOSTILE.values())) == len(HOSTILE)


def test_contract_of_too_many_bytes_is_not_even_parsed() -> None:
    with pytest.raises(ModelFileError, match=f"expected at most {MAX_CONTRACT_BYTES}"):
        parse_contract(b" " * (MAX_CONTRACT_BYTES + 1))


def test_weights_of_more_bytes_than_any_model_are_refused() -> None:
    most = MAX_MODEL_BYTES // 4 - SMALL.num_parameters + 12
    first, *rest = SMALL.weights

    def with_first(size: int) -> Contract:
        return replace(SMALL, weights=(replace(first, shape=(size,)), *rest))

    assert parse_contract(with_first(most).canonical_json()).weights_bytes == MAX_MODEL_BYTES
    with pytest.raises(ModelFileError, match="weights of 536870916 bytes; expected at most 536870912"):
        parse_contract(with_first(most + 1).canonical_json())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from([changed, changed_weight, changed_training]), st.data())
def test_any_value_in_any_field_reads_back_or_is_refused(
    change: Callable[..., bytes], data: st.DataObject
) -> None:
    body = json.loads(change())
    parts = {changed: body, changed_weight: body["weights"][0], changed_training: body["training"]}
    field = data.draw(st.sampled_from(sorted(parts[change])))
    content = change(**{field: data.draw(json_values)})
    try:
        parsed = parse_contract(content)
    except ModelFileError:
        return
    assert parsed.canonical_json() == content


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ModelFileError):
        parse_contract(data)


def test_read_contract_from_path_and_bytes(tiny_tflite: Path) -> None:
    contract = read_contract(tiny_tflite)
    assert contract == read_contract(tiny_tflite.read_bytes())
    assert (contract.model_name, contract.image_shape, len(contract.labels)) == ("tiny", (48, 48, 1), 7)
    # conv 40, bn 16, conv 296, bn 32, dense 15,504, dense 119 (see keras_models.tiny_model)
    assert contract.num_parameters == 40 + 16 + 296 + 32 + 968 * 16 + 16 + 16 * 7 + 7
    variances = [weight.name for weight in contract.weights if weight.nonnegative]
    assert variances == ["bn1/moving_variance", "bn2/moving_variance"]
    statistics = [weight.name for weight in contract.weights if weight.role == "statistic"]
    assert statistics == [f"bn{i}/moving_{what}" for i in (1, 2) for what in ("mean", "variance")]


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelFileError, match="No such file"):
        load_model_bytes(tmp_path / "absent.tflite")
    with pytest.raises(ModelFileError, match="Is a directory"):
        load_model_bytes(tmp_path)
    with pytest.raises(ModelFileError, match="/dev/zero is not a regular file"):
        load_model_bytes(Path("/dev/zero"))
    monkeypatch.setattr(module, "MAX_MODEL_BYTES", 3)
    (tmp_path / "long").write_bytes(b"1234")
    with pytest.raises(ModelFileError, match="has 4 bytes; expected at most 3"):
        load_model_bytes(tmp_path / "long")
