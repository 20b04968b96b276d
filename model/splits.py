"""Keeping a share of the images apart, to measure on. Pure; the same seed gives the same shares."""

import numpy as np

from fedfer.model.data import LabelledImages
from fedfer.model.errors import UsageError

_APART = 4  # first word of the entropy: no other kind of random numbers shares its stream


def split_off(data: LabelledImages, share: float, seed: int) -> tuple[LabelledImages, LabelledImages]:
    """The rest, and a share of the images drawn at random, at least one. Raises UsageError."""
    count = max(1, round(share * len(data))) if 0 < share < 1 else 0
    if not 0 < count < len(data):
        raise UsageError(
            f"expected a share above 0 and below 1 that leaves images to train on; received {share} of "
            f"{len(data)} images"
        )
    order = np.random.default_rng((_APART, seed)).permutation(len(data))
    return data.take(order[count:]), data.take(order[:count])
