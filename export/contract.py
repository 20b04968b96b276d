"""The contract of an exported `.tflite`: what its signatures take and give, stored inside the file.

It is JSON (canonical: sorted keys, no spaces, ASCII) in the flatbuffer metadata entry
`fedfer.contract`, so nothing has to be shipped beside the file. Its digest (sha256 of the canonical
JSON) names the kind of model: two files with the same digest exchange checkpoints. No TensorFlow here.

Signatures (f32 = float32, i32 = int32, B = any batch size >= 1):

    train    images f32[B,H,W,C] in 0..1, labels i32[B] (or targets f32[B,K]: fedfer.export.loss_settings),
             learning_rate f32[1], seed i32[1], proximal_mu f32[1] where `training.proximal`
             -> loss f32[1] (mean over the batch, before the step), accuracy f32[1] (likewise; of a
             regressor mean_absolute_error)
    infer    images f32[B,H,W,C] -> probabilities f32[B,K] (of a regressor, outputs)
    save     request i32[1] (ignored; runtimes refuse a call without inputs) -> every weight by its name
    restore  every weight by its name -> restored i32[1], the number of tensors taken; it also sets the
             optimizer back (moments and steps to 0, FedProx's anchor to these weights)

Where training remembers more than the weights (momentum, Adam, FedProx), two more, by which a device that is
killed in the middle of a task goes on from its last finished step:

    save_state     request i32[1] (ignored) -> every weight by its name, and `optimizer_state`
    restore_state  the same -> restored i32[1], the number of tensors taken; `restore` of the weights that the
                   task started from comes before it, and sets FedProx's anchor

Of a plain SGD file `save` and `restore` do. Exports made before there were these signatures lack them.
"""

import hashlib
import json
import math
import re
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast, get_args

from fedfer.export.flatbuffer import metadata
from fedfer.export.loss_settings import BINARY, SQUARED, LossSettings, TargetSpec
from fedfer.export.optimizer_settings import OptimizerSettings, optimizer_faults
from fedfer.model.errors import ModelFileError, UsageError

METADATA_NAME = "fedfer.contract"
FORMAT = "fedfer.contract/2"
SIGNATURES = ("train", "infer", "save", "restore")
STATE_SIGNATURES = ("save_state", "restore_state")
SGD, CROSS_ENTROPY = OptimizerSettings(), LossSettings()
MAX_MODEL_BYTES = 512 * 2**20
MAX_CONTRACT_BYTES = 4 * 2**20
MAX_NAME_CHARS = 256
MAX_RANK = 8
MAX_SHOWN_CHARS = 200  # of an error that speaks of somebody else's file

Role = Literal["trainable", "statistic"]


@dataclass(frozen=True)
class WeightSpec:
    """One tensor of a checkpoint. A `statistic` (BatchNorm's moving mean or variance) changes in
    training without a gradient; `nonnegative` holds for variances."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: Role
    nonnegative: bool = False

    @property
    def num_bytes(self) -> int:
        return 4 * math.prod(self.shape)


@dataclass(frozen=True)
class TrainingSettings:
    """How the file trains. The learning rate is a suggestion: it is an input of `train`. `proximal`: `train`
    has an input `proximal_mu` too, the mu of FedProx, and 0 there means none."""

    optimizer: OptimizerSettings = SGD
    loss: LossSettings = CROSS_ENTROPY
    learning_rate: float = SGD.learning_rate
    proximal: bool = False


@dataclass(frozen=True)
class Contract:
    """What a `.tflite` offers. `image_shape` is (H, W, C), of sequences
    (steps, C) or (steps,), of tables (columns,); uint8 pixels are divided by
    `pixel_divisor` before they enter `train` or `infer`; `labels[i]` is the name of class i, or of a
    regressor's output i;
    `initial_weights` is the sha256 of the checkpoint that the file starts from, written for this contract
    with `initial_weights` empty (a checkpoint names its contract, and cannot name itself); `frozen_weights`
    is the sha256 of the `num_frozen` numbers that are constants of the file, empty if there are none."""

    model_name: str
    image_shape: tuple[int, ...]
    labels: tuple[str, ...]
    weights: tuple[WeightSpec, ...]
    training: TrainingSettings
    initial_weights: str
    pixel_divisor: float = 255.0
    num_frozen: int = 0
    frozen_weights: str = ""

    @property
    def num_parameters(self) -> int:
        """Of a checkpoint: without what is frozen."""
        return sum(math.prod(weight.shape) for weight in self.weights)

    @property
    def num_outputs(self) -> int:
        """Of the Keras model, for an example: one tells two classes apart."""
        return 1 if self.training.loss.name == BINARY and len(self.labels) == 2 else len(self.labels)

    @property
    def target(self) -> TargetSpec:
        """What `train` is told of each example."""
        return self.training.loss.target(self.num_outputs)

    @property
    def train_inputs(self) -> tuple[str, ...]:
        """Names of `train`'s inputs."""
        proximal = ("proximal_mu",) if self.training.proximal else ()
        return ("images", self.target.name, "learning_rate", "seed", *proximal)

    @property
    def optimizer_state(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of what steps change beside the weights: `slot0:NAME`, `slot1:NAME` of every
        trained weight, `num_steps:`. Empty for plain SGD."""
        optimizer = self.training.optimizer
        trained = [weight for weight in self.weights if weight.role == "trainable"]
        slots = {f"slot{i}:{w.name}": w.shape for i in range(optimizer.num_slots) for w in trained}
        return {**slots, "num_steps:": (1,)} if optimizer.counts_steps else slots

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of all that a step changes: the weights, and `optimizer_state`."""
        return {weight.name: weight.shape for weight in self.weights} | self.optimizer_state

    @property
    def signatures(self) -> tuple[str, ...]:
        """Names of the file's signatures, as it is exported now."""
        more = bool(self.optimizer_state) or self.training.proximal
        return SIGNATURES + STATE_SIGNATURES * more

    @property
    def infer_output(self) -> str:
        """Name of `infer`'s output."""
        return "outputs" if self.training.loss.name == SQUARED else "probabilities"

    @cached_property
    def weights_bytes(self) -> int:
        """Bytes of all tensors, without any header."""
        return sum(weight.num_bytes for weight in self.weights)

    def canonical_json(self) -> bytes:
        body = {"format": FORMAT, **asdict(self)}
        return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(self.canonical_json()).hexdigest()


def parse_contract(data: bytes) -> Contract:
    """Contract from its canonical JSON. Raises ModelFileError for anything else: other fields, types or
    numbers than an export writes, or the same written otherwise (its digest would be another)."""
    if len(data) > MAX_CONTRACT_BYTES:
        raise ModelFileError(f"contract of {len(data)} bytes; expected at most {MAX_CONTRACT_BYTES}")
    try:
        contract = _from_json(json.loads(data))
        fault = next(_faults(contract), None)
        if fault is None and contract.canonical_json() != data:
            fault = "it is not canonical JSON: sorted keys, no spaces, ASCII"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, UsageError) as error:
        fault = f"{type(error).__name__}: {error}"
    if fault is not None:
        shown = ascii(fault)[1:-1][:MAX_SHOWN_CHARS]
        raise ModelFileError(f"the file's contract cannot be read ({shown}); export the model again")
    return contract


def _from_json(body: Any) -> Contract:
    """Contract of whatever types the JSON holds."""
    if body.pop("format") != FORMAT:
        raise ValueError(f"format is not {FORMAT}")
    training = body.pop("training")
    optimizer = OptimizerSettings(**training.pop("optimizer"))
    loss = training.pop("loss")
    loss = LossSettings(**{**loss, "class_weights": tuple(loss["class_weights"])})
    return Contract(
        weights=tuple(WeightSpec(**{**w, "shape": tuple(w["shape"])}) for w in body.pop("weights")),
        image_shape=tuple(body.pop("image_shape")),
        labels=tuple(body.pop("labels")),
        training=TrainingSettings(optimizer=optimizer, loss=loss, **training),
        **body,
    )


def _faults(contract: Contract) -> Iterator[str]:
    """What is wrong with a contract that somebody else wrote; nothing can be taken for granted."""
    training = contract.training
    if not _is_name(contract.model_name):
        yield "model_name is not a name"
    yield from optimizer_faults(training.optimizer)
    if {type(training.proximal), type(training.loss.from_logits)} != {bool}:
        yield "proximal or from_logits is not true or false"
    if {type(x) for x in (training.loss.label_smoothing, *training.loss.class_weights)} != {float}:
        yield "label_smoothing or class_weights are not numbers"
    if not all(map(_is_positive, (training.learning_rate, contract.pixel_divisor))):
        yield "learning_rate or pixel_divisor is not a positive number"
    if not 1 <= len(contract.image_shape) <= 3 or not _is_shape(contract.image_shape):
        yield "image_shape is not height, width, channels, nor of a sequence or a row"
    if not contract.labels or not _are_names(contract.labels):
        yield "labels are not different names"
    training.loss.check_outputs(contract.num_outputs)
    if not re.fullmatch("[0-9a-f]{64}", contract.initial_weights):
        yield "initial_weights is not a sha256 in hex"
    if type(contract.num_frozen) is not int or not 0 <= contract.num_frozen <= MAX_MODEL_BYTES:
        yield "num_frozen is not a number of weights"
    if not re.fullmatch("[0-9a-f]{64}" if contract.num_frozen else "", contract.frozen_weights):
        yield "frozen_weights is not a sha256 in hex of what is frozen"
    if not contract.weights or not _are_names([weight.name for weight in contract.weights]):
        yield "the names of weights are not different names"
    for weight in contract.weights:
        if not _is_shape(weight.shape) or weight.dtype != "float32" or weight.name == "__metadata__":
            yield f"{weight.name} is not a float32 tensor of fixed shape"
        if weight.role not in get_args(Role) or not isinstance(weight.nonnegative, bool):
            yield f"{weight.name} has another role than {get_args(Role)}"
    if contract.weights_bytes > MAX_MODEL_BYTES:
        yield f"weights of {contract.weights_bytes} bytes; expected at most {MAX_MODEL_BYTES}"


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME_CHARS and value.isprintable()


def _are_names(values: Collection[object]) -> bool:
    return all(map(_is_name, values)) and len(set(values)) == len(values)


def _is_shape(sizes: Collection[object]) -> bool:
    """() is the shape of a scalar."""
    sized = all(type(size) is int and 0 < size <= MAX_MODEL_BYTES for size in sizes)
    return sized and len(sizes) <= MAX_RANK


def _is_positive(value: object) -> bool:
    return type(value) in (int, float) and 0 < cast(float, value) < math.inf


def read_contract(model: bytes | Path) -> Contract:
    """Contract stored in a `.tflite`, given as bytes or path. Raises ModelFileError."""
    data = metadata(load_model_bytes(model)).get(METADATA_NAME)
    if data is None:
        raise ModelFileError(
            f"no `{METADATA_NAME}` metadata in this .tflite; expected a file made by `fedfer export`"
        )
    return parse_contract(data)


def load_model_bytes(model: bytes | Path) -> bytes:
    """The file's bytes, bounded by MAX_MODEL_BYTES. Raises ModelFileError."""
    if isinstance(model, bytes):
        return model
    try:
        size = model.stat().st_size
        if not model.is_file() and not model.is_dir():  # a device or a pipe may have no end
            raise ModelFileError(f"{model} is not a regular file; expected a .tflite")
        if size > MAX_MODEL_BYTES:
            raise ModelFileError(f"{model} has {size} bytes; expected at most {MAX_MODEL_BYTES}")
        return model.read_bytes()
    except OSError as error:
        raise ModelFileError(f"cannot read {model}: {error.strerror}") from None
