"""Augmentation: mirrored, shifted and turned images, where the result can be told exactly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedfer.model.augmentation import Augmentation, augment, transform
from fedfer.model.errors import UsageError

Images = NDArray[np.float32]


def some_images(count: int = 3, size: int = 7) -> Images:
    return np.random.default_rng(0).random((count, size, size, 2)).astype(np.float32)


def changed(
    images: Images, angle: float = 0.0, down: float = 0.0, right: float = 0.0, flip: bool = False
) -> Images:
    each = np.ones(len(images))
    return transform(images, each * angle, each * down, each * right, np.full(len(images), flip))


def test_nothing_changes_without_a_change() -> None:
    np.testing.assert_array_equal(changed(some_images()), some_images())


def test_mirrored() -> None:
    np.testing.assert_allclose(changed(some_images(), flip=True), some_images()[:, :, ::-1], atol=1e-6)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_turned_by_quarters(quarters: int) -> None:
    """Clockwise; np.rot90 turns the other way."""
    expected = np.rot90(some_images(), -quarters, axes=(1, 2))
    np.testing.assert_allclose(changed(some_images(), angle=quarters * np.pi / 2), expected, atol=1e-5)


def test_shifted_by_whole_pixels() -> None:
    """Down and right; what comes in is the nearest edge."""
    images = some_images()
    moved = changed(images, down=2.0, right=1.0)
    np.testing.assert_allclose(moved[:, 2:, 1:], images[:, :-2, :-1], atol=1e-6)
    np.testing.assert_allclose(moved[:, :2, 1:], np.repeat(images[:, :1, :-1], 2, axis=1), atol=1e-6)


def test_half_a_pixel_is_the_mean_of_two() -> None:
    images = some_images()
    moved = changed(images, right=0.5)
    np.testing.assert_allclose(moved[:, :, 1:], (images[:, :, 1:] + images[:, :, :-1]) / 2, atol=1e-6)


@given(seed=st.integers(0, 2**32), shift=st.floats(0, 0.9), angle=st.floats(0, 180), flip=st.booleans())
def test_augmented_images_stay_within_bounds(seed: int, shift: float, angle: float, flip: bool) -> None:
    images, settings = some_images(), Augmentation(flip, shift, angle)
    one = augment(images, settings, np.random.default_rng(seed))
    assert one.dtype == np.float32
    assert one.shape == images.shape
    assert images.min() - 1e-6 <= one.min() <= one.max() <= images.max() + 1e-6
    np.testing.assert_array_equal(one, augment(images, settings, np.random.default_rng(seed)))


def test_half_of_the_images_are_mirrored() -> None:
    images = some_images(count=400, size=3)
    mirrored = augment(images, Augmentation(True, 0.0, 0.0), np.random.default_rng(1))
    count = sum(bool(np.allclose(a, b[:, ::-1], atol=1e-6)) for a, b in zip(mirrored, images, strict=True))
    assert 150 < count < 250
    still = augment(images, Augmentation(False, 0.0, 0.0), np.random.default_rng(1))
    np.testing.assert_allclose(still, images, atol=1e-6)


@pytest.mark.parametrize(("shift", "rotate_deg"), [(1.0, 0.0), (-0.1, 0.0), (0.0, 181.0), (0.0, np.nan)])
def test_settings_that_cannot_be(shift: float, rotate_deg: float) -> None:
    with pytest.raises(UsageError, match="expected a shift of at least 0 and below 1 and a rotation"):
        Augmentation(True, shift, rotate_deg)
