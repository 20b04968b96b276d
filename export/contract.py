"""The contract of an exported `.tflite`: what its signatures take and give, stored inside the file.

It is JSON (canonical: sorted keys, no spaces, ASCII) in the flatbuffer metadata entry
`fedfer.contract`, so nothing has to be shipped beside the file. Its digest (sha256 of the canonical
JSON) names the kind of model: two files with the same digest exchange checkpoints. No TensorFlow here.

Signatures (f32 = float32, i32 = int32, B = any batch size >= 1):

    train    images f32[B,H,W,C] in 0..1, labels i32[B], learning_rate f32[1], seed i32[1]
             -> loss f32[1] (mean over the batch, before the step), accuracy f32[1] (likewise)
    infer    images f32[B,H,W,C] -> probabilities f32[B,K]
    save     request i32[1] (ignored; runtimes refuse a call without inputs) -> every weight by its name
    restore  every weight by its name -> restored i32[1], the number of tensors taken
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from fedfer.export.flatbuffer import metadata
from fedfer.model.errors import ModelFileError

METADATA_NAME = "fedfer.contract"
FORMAT = "fedfer.contract/1"
SIGNATURES = ("train", "infer", "save", "restore")
MAX_MODEL_BYTES = 512 * 2**20
MAX_CONTRACT_BYTES = 4 * 2**20

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
    """How the model was meant to be trained; a server may set the learning rate otherwise."""

    optimizer: str = "sgd"
    loss: str = "sparse_categorical_crossentropy"
    learning_rate: float = 0.02


@dataclass(frozen=True)
class Contract:
    """What a `.tflite` offers. `image_shape` is (H, W, C); uint8 pixels are divided by
    `pixel_divisor` before they enter `train` or `infer`; `labels[i]` is the name of class i;
    `initial_weights` is the sha256 of the canonical checkpoint that the file starts from."""

    model_name: str
    image_shape: tuple[int, int, int]
    labels: tuple[str, ...]
    weights: tuple[WeightSpec, ...]
    training: TrainingSettings
    initial_weights: str
    pixel_divisor: float = 255.0

    @property
    def num_parameters(self) -> int:
        return sum(math.prod(weight.shape) for weight in self.weights)

    @property
    def weights_bytes(self) -> int:
        """Bytes of all tensors, without any header."""
        return sum(weight.num_bytes for weight in self.weights)

    def canonical_json(self) -> bytes:
        body = {"format": FORMAT, **asdict(self)}
        return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.canonical_json()).hexdigest()


def parse_contract(data: bytes) -> Contract:
    """Contract from its JSON. Raises ModelFileError for anything else."""
    if len(data) > MAX_CONTRACT_BYTES:
        raise ModelFileError(f"contract of {len(data)} bytes; expected at most {MAX_CONTRACT_BYTES}")
    try:
        body = json.loads(data)
        if body.pop("format") != FORMAT:
            raise ValueError(f"format is not {FORMAT}")
        weights = tuple(WeightSpec(**{**w, "shape": tuple(w["shape"])}) for w in body.pop("weights"))
        return Contract(
            weights=weights,
            image_shape=tuple(body.pop("image_shape")),
            labels=tuple(body.pop("labels")),
            training=TrainingSettings(**body.pop("training")),
            **body,
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelFileError(
            f"the file's contract cannot be read ({error}); export the model again"
        ) from None


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
        if size > MAX_MODEL_BYTES:
            raise ModelFileError(f"{model} has {size} bytes; expected at most {MAX_MODEL_BYTES}")
        return model.read_bytes()
    except OSError as error:
        raise ModelFileError(f"cannot read {model}: {error.strerror}") from None


def same_names(contract: Contract, tensors: Mapping[str, Any]) -> bool:
    """Whether the mapping holds exactly the contract's weights."""
    return tensors.keys() == {weight.name for weight in contract.weights}
