"""Local training: batches and seeds as arithmetic, then the real interpreter, bit for bit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from exported import export_tiny
from hypothesis import given
from hypothesis import strategies as st
from prepared import call_isolated, in_tensorflow
from trainer_helpers import Outcome, Task, losses_by_divisor, run_tasks, three_steps_by_hand

from fedfer.android_stub.trainer import Seeds, epoch_batches
from fedfer.export.check import vector_difference
from fedfer.export.checkpoint import Weights
from fedfer.model.errors import CheckpointError, ModelFileError


@given(num_examples=st.integers(1, 200), batch_size=st.integers(1, 250), seed=st.integers(0, 2**40))
def test_an_epoch_visits_every_example_once(num_examples: int, batch_size: int, seed: int) -> None:
    batches = epoch_batches(num_examples, batch_size, np.random.default_rng(seed))
    assert sorted(np.concatenate(batches)) == list(range(num_examples))
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert 1 <= len(batches[-1]) <= batch_size


def test_seven_examples_in_batches_of_three() -> None:
    assert [len(batch) for batch in epoch_batches(7, 3, np.random.default_rng(0))] == [3, 3, 1]


words = st.integers(0, 2**70)


@given(
    fleet=words, device=st.integers(0, 10**6), round_number=st.integers(1, 10**6), step=st.integers(0, 10**6)
)
def test_dropout_seeds_fit_an_int32(fleet: int, device: int, round_number: int, step: int) -> None:
    assert 0 <= Seeds(fleet, device, round_number).dropout(step) < 2**31


def test_every_task_and_step_has_its_own_random_numbers() -> None:
    tasks = [Seeds(f, d, r) for f in (0, 1, 2**32) for d in (0, 1, 2) for r in (1, 2, 3)]
    dropouts = {seeds.dropout(step) for seeds in tasks for step in range(10)}
    orders = {tuple(seeds.shuffle(epoch).permutation(20)) for seeds in tasks for epoch in range(10)}
    assert len(dropouts) == len(orders) == 27 * 10
    assert Seeds(5, 6, 7).dropout(8) == Seeds(5, 6, 7).dropout(8)


def same_bits(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def fedprox_tflite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model without dropout, with a proximal term."""
    path = tmp_path_factory.mktemp("fedprox") / "fedprox.tflite"
    in_tensorflow(export_tiny, path, 0.0, proximal=True)
    return path


BASE = Task()
OTHERS = {
    "device": replace(BASE, device=1),
    "round": replace(BASE, round=2),
    "fleet seed": replace(BASE, fleet_seed=1),
}


@pytest.fixture(scope="module")
def forwards(tiny_tflite: Path) -> list[Outcome]:
    return call_isolated(run_tasks, tiny_tflite, [BASE, *OTHERS.values()])


def test_the_order_of_tasks_and_the_process_do_not_matter(tiny_tflite: Path, forwards: list[Outcome]) -> None:
    backwards = call_isolated(run_tasks, tiny_tflite, [*reversed(OTHERS.values()), BASE, BASE])
    assert all(
        same_bits(one.after, other.after)
        for one, other in zip(forwards, reversed(backwards[:4]), strict=True)
    )
    assert same_bits(backwards[3].after, backwards[4].after)
    assert (backwards[3].loss, backwards[3].accuracy) == (forwards[0].loss, forwards[0].accuracy)


@pytest.mark.parametrize("which", range(len(OTHERS)), ids=list(OTHERS))
def test_another_device_round_or_seed_trains_otherwise(which: int, forwards: list[Outcome]) -> None:
    assert not same_bits(forwards[0].after, forwards[1 + which].after)


def test_training_changes_every_tensor_batchnorm_statistics_included(forwards: list[Outcome]) -> None:
    before, after = forwards[0].before, forwards[0].after
    unchanged = [name for name in before if np.array_equal(before[name], after[name])]
    assert unchanged == []
    assert any("moving_mean" in name for name in before)


def test_seven_images_in_batches_of_three_are_the_same_steps_by_hand(tiny_tflite: Path) -> None:
    task = Task(num_examples=7, batch_size=3, local_epochs=1)
    [trained] = call_isolated(run_tasks, tiny_tflite, [task])
    weights, [first, second, third] = call_isolated(three_steps_by_hand, tiny_tflite, task)
    assert same_bits(trained.after, weights)
    assert trained.num_examples == 7
    assert trained.loss == pytest.approx((3 * first[0] + 3 * second[0] + third[0]) / 7, rel=1e-12)
    assert trained.accuracy == pytest.approx((3 * first[1] + 3 * second[1] + third[1]) / 7, rel=1e-12)


def test_pixels_are_divided_as_the_contract_says(tiny_tflite: Path) -> None:
    usual, other, again = call_isolated(losses_by_divisor, tiny_tflite, [255.0, 1020.0, 255.0])
    assert usual == again != other


def test_a_proximal_term_keeps_weights_near_the_start(fedprox_tflite: Path) -> None:
    """The same task three times: the stronger the pull, the shorter the way, and mu 0 is none."""
    tasks = [Task(proximal_mu=mu, learning_rate=0.02) for mu in (0.0, 1.0, 10.0)]
    outcomes = call_isolated(run_tasks, fedprox_tflite, tasks)
    ways = [vector_difference(o.after, o.before) for o in outcomes]
    assert ways[0] > ways[1] > ways[2] > 0


def test_a_proximal_term_that_the_file_lacks_is_refused(tiny_tflite: Path) -> None:
    with pytest.raises(ModelFileError, match="proximal_mu is 1, but the model has no proximal term"):
        call_isolated(run_tasks, tiny_tflite, [Task(proximal_mu=1.0)])


def test_divergence_is_said_on_the_device(tiny_tflite: Path) -> None:
    task = Task(learning_rate=1e30, round=4)
    with pytest.raises(CheckpointError, match=r"diverged in round 4.*learning rate \(now 1e\+30\)") as caught:
        call_isolated(run_tasks, tiny_tflite, [task])
    assert caught.value.code == "not_finite"
