"""Images changed at random as cameras do: mirrored, shifted, turned. numpy only, one draw for each image.

Simard, Steinkraus & Platt 2003, "Best Practices for Convolutional Neural Networks Applied to Visual Document
Analysis", section 2: one affine map an image, sampled bilinearly. What lies outside is the nearest edge.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfer.model.errors import UsageError
from fedfer.model.settings import ROTATE_DEG, SHIFT

Pixels = NDArray[np.float32]
Numbers = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Augmentation:
    """`flip`: left and right change places in half of the images. `shift`: each way by up to this share of
    the size. `rotate_deg`: either way by up to so many degrees. Draws are uniform."""

    flip: bool = True
    shift: float = SHIFT
    rotate_deg: float = ROTATE_DEG

    def __post_init__(self) -> None:
        """Raises UsageError for settings that cannot be."""
        if not 0 <= self.shift < 1 or not 0 <= self.rotate_deg <= 180:
            raise UsageError(
                "expected a shift of at least 0 and below 1 and a rotation of 0 to 180 degrees; "
                f"received {self.shift} and {self.rotate_deg}"
            )


def augment(images: Pixels, settings: Augmentation, rng: np.random.Generator) -> Pixels:
    """Images f32[B,H,W,C] changed at random; the same generator state gives the same images."""
    count, height, width, _ = images.shape
    angles = np.deg2rad(rng.uniform(-settings.rotate_deg, settings.rotate_deg, count))
    down = rng.uniform(-settings.shift, settings.shift, count) * height
    right = rng.uniform(-settings.shift, settings.shift, count) * width
    flipped = rng.random(count) < 0.5 if settings.flip else np.zeros(count, bool)
    return transform(images, angles, down, right, flipped)


def transform(
    images: Pixels, angles: Numbers, down: Numbers, right: Numbers, flipped: NDArray[np.bool_]
) -> Pixels:
    """Each image turned by its angle [B] (radians, clockwise) about its centre, moved by so many pixels [B]
    and, before that, mirrored where `flipped` [B]."""
    _, height, width, _ = images.shape
    middle = (height - 1) / 2, (width - 1) / 2
    y = np.arange(height)[None, :, None] - middle[0] - down[:, None, None]
    x = np.arange(width)[None, None, :] - middle[1] - right[:, None, None]
    cos, sin = np.cos(angles)[:, None, None], np.sin(angles)[:, None, None]
    from_y = np.asarray(cos * y - sin * x + middle[0])
    turned = np.asarray(cos * x + sin * y)
    from_x = turned * np.where(flipped, -1.0, 1.0)[:, None, None] + middle[1]
    return _sample(images, from_y, from_x)


def _sample(images: Pixels, y: Numbers, x: Numbers) -> Pixels:
    """Bilinear values of the images at places [B,H,W], which are brought inside first."""
    count, height, width, _ = images.shape
    y, x = np.asarray(np.clip(y, 0, height - 1)), np.asarray(np.clip(x, 0, width - 1))
    top, left = np.floor(y).astype(np.intp), np.floor(x).astype(np.intp)
    bottom, end = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    below, beside = (y - top)[..., None].astype(np.float32), (x - left)[..., None].astype(np.float32)
    which = np.arange(count)[:, None, None]
    upper = images[which, top, left] * (1 - beside) + images[which, top, end] * beside
    lower = images[which, bottom, left] * (1 - beside) + images[which, bottom, end] * beside
    sampled: Pixels = upper * (1 - below) + lower * below
    return sampled
