"""Drawn faces: one series for each seed, every expression in it, and expressions that can be told apart."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedfer.model.data import LabelledImages
from fedfer.model.errors import UsageError
from fedfer.model.faces import EXPRESSIONS, draw_faces
from fedfer.model.labels import LABELS


def test_seven_expressions_in_every_seven() -> None:
    data = draw_faces(15, first=3, seed=9)
    assert data.images.shape == (15, 48, 48, 1)
    assert data.images.dtype == data.labels.dtype == np.uint8
    assert all(len(set(data.labels[at : at + 7].tolist())) == 7 for at in range(9))
    assert len(EXPRESSIONS) == len(LABELS)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), first=st.integers(0, 10**6), count=st.integers(0, 4))
def test_an_image_depends_on_its_seed_and_place_alone(seed: int, first: int, count: int) -> None:
    run = draw_faces(count, first=first, seed=seed)
    assert len(run) == count
    for place in range(count):
        alone = draw_faces(1, first=first + place, seed=seed)
        assert (alone.images[0] == run.images[place]).all()
        assert alone.labels[0] == run.labels[place]


def test_no_two_faces_are_alike() -> None:
    images = np.concatenate([draw_faces(70, seed=seed).images for seed in (0, 1)])
    assert len(np.unique(images.reshape(140, -1), axis=0)) == 140
    deviations = images.reshape(140, -1).std(axis=1)
    assert deviations.min() > 15  # nothing blank


def test_expressions_can_be_learned() -> None:
    """Ridge regression on half-size pictures: 0.95 after 350 images, 0.98 after 1,400; guessing gives 1/7."""
    known, unseen = draw_faces(420), draw_faces(210, first=420)

    def features(data: LabelledImages) -> NDArray[np.float64]:
        halves: NDArray[np.float64] = data.images.reshape(-1, 24, 2, 24, 2).mean(axis=(2, 4))
        return halves.reshape(len(data), -1) / 255

    middle, spread = features(known).mean(axis=0), features(known).std(axis=0) + 0.05
    train, test = ((features(data) - middle) / spread for data in (known, unseen))
    weights = np.linalg.solve(train @ train.T + 100 * np.eye(len(train)), np.eye(7)[known.labels] - 1 / 7)
    accuracy = float(((test @ train.T @ weights).argmax(axis=1) == unseen.labels).mean())
    assert accuracy > 0.9


def test_refuses_numbers_below_zero() -> None:
    with pytest.raises(UsageError, match="received 1 faces from -1, seed 0"):
        draw_faces(1, first=-1)
