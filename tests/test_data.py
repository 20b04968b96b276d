"""Labelled images: scaling, choosing, and whether they fit a model."""

import numpy as np
import pytest

from fedfer.model.data import LabelledImages, check_fit, to_float
from fedfer.model.errors import DataError

SHAPE = (2, 2, 1)


def labelled(*labels: int, size: int = 2) -> LabelledImages:
    images = np.arange(len(labels) * size * size, dtype=np.uint8).reshape(-1, size, size, 1)
    return LabelledImages(images, np.array(labels, np.uint8))


def test_scaling_by_hand() -> None:
    pixels = np.array([0, 51, 255], np.uint8)
    assert to_float(pixels).dtype == np.float32
    assert to_float(pixels).tolist() == pytest.approx([0, 0.2, 1])
    assert to_float(pixels, 127.5).tolist() == pytest.approx([0, 0.4, 2])


def test_take_keeps_images_and_labels_together() -> None:
    taken = labelled(5, 6, 7).take(np.array([2, 0]))
    assert taken.labels.tolist() == [7, 5]
    assert taken.images[:, 0, 0, 0].tolist() == [8, 0]


def test_what_fits_a_model() -> None:
    check_fit(labelled(0, 6), SHAPE, 7)
    with pytest.raises(DataError, match=r"one or more inputs of shape \(2, 2, 1\); received 0"):
        check_fit(labelled(), SHAPE, 7)
    with pytest.raises(DataError, match=r"received 1 of shape \(3, 3, 1\)"):
        check_fit(labelled(0, size=3), SHAPE, 7)
    with pytest.raises(DataError, match=r"labels 0\.\.5, as the model has classes; received 6"):
        check_fit(labelled(0, 6), SHAPE, 6)
