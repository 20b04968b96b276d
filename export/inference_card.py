"""What an inference-only `.tflite` says of itself: JSON in its metadata entry `fedfer.inference`.

Such a file has one signature, `infer`: images f32[B,H,W,C], sequences or rows f32[B,...], or tokens
i32[B,...] -> probabilities f32[B,K]. It cannot train and speaks no protocol; its labels and
scaling travel inside it all the same. No TensorFlow here.
"""

import json
import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from fedfer.export.flatbuffer import metadata
from fedfer.model.errors import ModelFileError

METADATA_NAME = "fedfer.inference"
MAX_CARD_BYTES = 2**20
MAX_SIZE = 2**29  # of one dimension: more than any file holds
Precision = Literal["float32", "float16", "int8"]
InputType = Literal["float32", "int32"]


@dataclass(frozen=True)
class InferenceCard:
    """`labels[i]` is the name of output i; `image_shape` is (H, W, C), or of other inputs (steps, C),
    (steps,) or (columns,); uint8 pixels are divided by `pixel_divisor`; `output` is the name of what
    `infer` gives; `input_type` is int32 of tokens."""

    model_name: str
    image_shape: tuple[int, ...]
    labels: tuple[str, ...]
    precision: Precision
    output: str
    pixel_divisor: float = 255.0
    input_type: InputType = "float32"

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True).encode()


def read_card(content: bytes) -> InferenceCard | None:
    """The card of an inference-only file; None for files without one. Raises ModelFileError for one that is
    not as `fedfer inference` writes it."""
    data = metadata(content).get(METADATA_NAME)
    if data is None:
        return None
    try:
        if len(data) > MAX_CARD_BYTES:
            raise ValueError(f"{len(data)} bytes")
        body = json.loads(data)
        sizes, labels = tuple(body.pop("image_shape")), tuple(body.pop("labels"))
        card = InferenceCard(image_shape=sizes, labels=labels, **body)
        _check(card)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        shown = ascii(f"{type(error).__name__}: {error}")[1:-1][:200]
        raise ModelFileError(f"the file's {METADATA_NAME} entry cannot be read ({shown})") from None
    return card


def _check(card: InferenceCard) -> None:
    """Raises ValueError."""
    words: list[Any] = [card.model_name, card.output, *card.labels]
    if not card.labels or not all(isinstance(word, str) and word.isprintable() for word in words):
        raise ValueError("names that are not names")
    sizes = card.image_shape
    if not 1 <= len(sizes) <= 3 or not all(type(n) is int and 0 < n <= MAX_SIZE for n in sizes):
        raise ValueError("image_shape is not height, width, channels, nor of a sequence or a row")
    if card.input_type not in get_args(InputType):
        raise ValueError("another type of inputs than an export writes")
    if card.precision not in get_args(Precision) or type(card.pixel_divisor) is not float:
        raise ValueError("another precision or divisor than an export writes")
    if not 0 < card.pixel_divisor < math.inf:
        raise ValueError("pixel_divisor is not above 0")
