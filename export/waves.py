"""Images to check a model on: smooth, in 0..1, unlike each other. numpy only."""

import numpy as np
from numpy.typing import NDArray


def wave_images(rng: np.random.Generator, count: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Images f32[count,H,W,C] in 0..1, each of a few waves of its own, unlike each other; sequences and rows
    are images of one row, or of one row and column.

    White noise would not do: all its images look alike to deep layers, where BatchNorm then magnifies
    rounding (an input changed by 1e-7 moves the updated weights by 1e-2; with these by 1e-5).
    """
    height, width, channels = (*[1] * (3 - len(shape)), *shape)
    rows, columns = np.arange(height)[:, None, None] / height, np.arange(width)[None, :, None] / width
    images = np.zeros((count, height, width, channels))
    for image in images:
        for _ in range(4):
            down, right = rng.uniform(-4, 4, 2)
            phase, weight = rng.uniform(0, 1, channels), rng.uniform(0.2, 1, channels)
            image += weight * np.cos(2 * np.pi * (down * rows + right * columns + phase))
        image -= image.min()
        image /= max(image.max(), 1e-6)
    return images.astype(np.float32).reshape(count, *shape)
