"""Measures on numbers that a person can check by hand, and properties on random ones."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfer.model.errors import DataError
from fedfer.model.measures import measure


def test_four_examples_by_hand() -> None:
    probabilities = np.array(
        [[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.5, 0.25, 0.25], [0.125, 0.75, 0.125]], np.float32
    )
    measures = measure(probabilities, np.array([0, 1, 1, 1], np.uint8))
    assert measures.num_examples == 4
    assert measures.accuracy == 3 / 4
    # ln 2 twice, ln 4 once, -ln 0.75 once
    assert measures.loss == pytest.approx((4 * math.log(2) - math.log(0.75)) / 4)
    assert measures.per_class_recall == (1.0, 2 / 3, None)
    assert measures.confusion == ((1, 0, 0), (1, 2, 0), (0, 0, 0))


def test_certainty_costs_what_keras_makes_it_cost() -> None:
    wrong = measure(np.array([[1.0, 0.0]], np.float32), np.array([1]))
    assert wrong.loss == pytest.approx(7 * math.log(10))
    right = measure(np.array([[1.0, 0.0]], np.float32), np.array([0]))
    assert right.loss == pytest.approx(1e-7)


def test_equal_probabilities_choose_the_first_class() -> None:
    assert measure(np.full((1, 7), 1 / 7), np.array([0])).accuracy == 1.0
    assert measure(np.full((1, 7), 1 / 7), np.array([6])).accuracy == 0.0


def test_a_diverged_model_has_finite_measures() -> None:
    measures = measure(np.full((2, 7), np.nan, np.float32), np.array([0, 1]))
    assert measures.loss == pytest.approx(7 * math.log(10))
    assert measures.accuracy == 0.5


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=60))
def test_confusion_counts_every_example_once(pairs: list[tuple[int, int]]) -> None:
    truth = np.array([pair[0] for pair in pairs])
    measures = measure(np.eye(7)[[pair[1] for pair in pairs]], truth)
    confusion = np.array(measures.confusion)
    assert confusion.sum() == len(pairs)
    assert confusion.sum(axis=1).tolist() == np.bincount(truth, minlength=7).tolist()
    assert all(confusion[i, j] == pairs.count((i, j)) for i in range(7) for j in range(7))
    assert measures.accuracy == sum(i == j for i, j in pairs) / len(pairs)


@pytest.mark.parametrize(
    ("shape", "labels", "words"),
    [
        ((0, 7), [], "at least one example"),
        ((2, 7), [0], r"received \(2, 7\) and \(1,\)"),
        ((7,), [0], "expected probabilities"),
        ((1, 7), [7], "received 7..7"),
        ((1, 7), [-1], "received -1..-1"),
    ],
)
def test_refuses_what_cannot_be_measured(shape: tuple[int, ...], labels: list[int], words: str) -> None:
    with pytest.raises(DataError, match=words):
        measure(np.zeros(shape), np.array(labels, np.int64))
