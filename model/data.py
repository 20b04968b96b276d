"""Labelled images: the one shape in which images travel inside fedfer.

uint8 (n, 48, 48, 1) grey images and uint8 (n,) labels; they become float32 in 0..1 only a batch at a time.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PIXEL_DIVISOR = np.float32(255.0)


@dataclass(frozen=True)
class LabelledImages:
    """images uint8 (n, H, W, C), labels uint8 (n,)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[np.intp] | slice) -> "LabelledImages":
        """The examples at these places, in this order."""
        return LabelledImages(self.images[indices], self.labels[indices])


def to_float(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """float32 in 0..1, as `train` and `infer` take them."""
    return images.astype(np.float32) / PIXEL_DIVISOR
