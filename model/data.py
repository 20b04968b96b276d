"""Labelled images: the one shape in which examples travel inside fedfer.

uint8 (n, H, W, 1) grey images (faces of 48x48, digits of 28x28) and uint8 (n,) labels; they become float32 in
0..1 only a batch at a time. From a .npz (fedfer.model.npz) also rows of numbers and sequences.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfer.model.errors import DataError

PIXEL_DIVISOR = 255.0


@dataclass(frozen=True)
class LabelledImages:
    """images uint8 (n, H, W, C), or other inputs: float32 (n, ...), tokens int32 (n, steps); labels uint8
    (n,); owners str (n,), whose each is, if the source says so."""

    images: NDArray[Any]
    labels: NDArray[np.uint8]
    owners: NDArray[np.str_] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[np.intp] | slice) -> "LabelledImages":
        """The examples at these places, in this order."""
        owners = None if self.owners is None else self.owners[indices]
        return LabelledImages(self.images[indices], self.labels[indices], owners)


def to_float(images: NDArray[Any], divisor: float = PIXEL_DIVISOR) -> NDArray[np.float32]:
    """float32 as `train` and `infer` take them: pixels in 0..1, unless a model's contract has another
    divisor; what is float32 already, and tokens, as they are."""
    if images.dtype != np.uint8:
        return images.astype(np.float32)
    return images.astype(np.float32) / np.float32(divisor)


def are_pixels(data: LabelledImages) -> bool:
    """Whether they are images, and not rows of numbers or sequences."""
    return data.images.dtype == np.uint8 and data.images.ndim == 4


def noun_of(data: LabelledImages) -> str:
    """What a command calls them."""
    return "images" if are_pixels(data) else "examples"


def check_fit(data: LabelledImages, image_shape: tuple[int, ...], num_labels: int) -> None:
    """Raises DataError unless a model with this input and so many classes can train or be measured on it."""
    if not len(data) or data.images.shape[1:] != image_shape:
        raise DataError(
            f"expected one or more inputs of shape {image_shape}; "
            f"received {len(data)} of shape {data.images.shape[1:]}"
        )
    if data.labels.max() >= num_labels:
        raise DataError(
            f"expected labels 0..{num_labels - 1}, as the model has classes; received {data.labels.max()}"
        )
