"""Dropout's masks: how many are kept, and that samples, places, layers and seeds do not resemble each other.

All seeds are fixed, so every statistic here is one number that either holds or does not.
"""

from pathlib import Path

import numpy as np
import pytest
from dropout_masks import NUM_SAMPLES, RATES, SEEDS, Array, Drawn, draw, run_mask_model
from prepared import call_isolated, in_tensorflow

from fedfer.export.runtime import available_runtimes

MOST_SIGMA = 4.5  # of some hundred standardised numbers, none should be beyond


@pytest.fixture(scope="module")
def mask_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dropout") / "mask.tflite"


@pytest.fixture(scope="module")
def drawn(mask_model: Path) -> Drawn:
    return in_tensorflow(draw, mask_model)


@pytest.fixture(scope="module")
def outputs(drawn: Drawn) -> dict[str, Array]:
    return drawn.outputs


def sigmas(kept: Array, rate: float, axes: tuple[int, ...]) -> Array:
    """How far the share kept, over `axes`, is from 1 - rate, in standard deviations."""
    count = np.prod([kept.shape[axis] for axis in axes])
    share = (kept != 0).mean(axis=axes)
    deviations: Array = (share - (1 - rate)) / np.sqrt(rate * (1 - rate) / count)
    return deviations


@pytest.mark.parametrize("rate", RATES)
def test_values_are_0_or_the_inverse_of_what_is_kept(drawn: Drawn, rate: float) -> None:
    assert set(np.unique(drawn.by_rate[rate])) == {np.float32(0), np.float32(1 / (1 - rate))}


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("kept_axis", [0, 1, 2, 3, 4], ids=["seed", "sample", "row", "column", "channel"])
def test_share_kept(drawn: Drawn, rate: float, kept_axis: int) -> None:
    """For each seed, sample, row, column and channel: as many kept as chance would, no more evenly."""
    axes = tuple(axis for axis in range(5) if axis != kept_axis)
    deviations = sigmas(drawn.by_rate[rate], rate, axes)
    assert np.abs(deviations).max() < MOST_SIGMA
    assert 0.3 < np.sqrt(np.mean(deviations**2)) < 1.8


@pytest.mark.parametrize("rate", RATES)
def test_single_places_are_as_random_as_seeds(drawn: Drawn, rate: float) -> None:
    """Over seeds and samples each place is kept as often as chance would, with the spread of chance."""
    deviations = sigmas(drawn.by_rate[rate], rate, (0, 1))
    assert np.abs(deviations).max() < MOST_SIGMA + 0.5  # 2,304 numbers
    assert 0.95 < np.std(deviations) < 1.05


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("axis", [0, 1, 2, 3, 4], ids=["seed", "sample", "row", "column", "channel"])
@pytest.mark.parametrize("distance", [1, 2, 4])
def test_neighbours_are_not_correlated(drawn: Drawn, rate: float, axis: int, distance: int) -> None:
    kept = (drawn.by_rate[rate] != 0).astype(np.float64)
    if axis == 0:
        kept = kept[:24]  # seeds 0, 1, 2 ...
    count = kept.shape[axis]
    one = kept.take(range(count - distance), axis).ravel()
    other = kept.take(range(distance, count), axis).ravel()
    assert abs(np.corrcoef(one, other)[0, 1]) * np.sqrt(one.size) < MOST_SIGMA


def test_seeds_samples_and_places_differ(drawn: Drawn) -> None:
    kept = drawn.by_rate[0.5] != 0
    by_sample = kept.reshape(len(SEEDS) * NUM_SAMPLES, -1)
    assert len(np.unique(by_sample, axis=0)) == len(by_sample)
    by_place = np.moveaxis(kept, (0, 1), (-2, -1)).reshape(-1, len(SEEDS) * NUM_SAMPLES)
    assert len(np.unique(by_place, axis=0)) == len(by_place)


def test_masks_do_not_depend_on_the_batch(drawn: Drawn) -> None:
    """The first samples of a batch get the same masks however large the batch is."""
    np.testing.assert_array_equal(drawn.few_samples, drawn.by_rate[0.3][:2, :3])


def test_vectors_as_well_as_images(drawn: Drawn) -> None:
    assert np.abs(sigmas(drawn.vectors, 0.3, (1, 2))).max() < MOST_SIGMA


def test_layers_of_equal_size_differ(outputs: dict[str, Array]) -> None:
    agree = np.mean(outputs["first"] == outputs["second"])
    assert agree == pytest.approx(0.5, abs=MOST_SIGMA * 0.5 / np.sqrt(outputs["first"].size))


def test_kept_activations_are_scaled_up(outputs: dict[str, Array]) -> None:
    for name in ("first", "second", "dense"):
        assert set(np.unique(outputs[name])) == {0, 2}


def test_spatial_dropout_drops_whole_channels(outputs: dict[str, Array]) -> None:
    spatial = outputs["spatial"]
    np.testing.assert_array_equal(spatial, np.broadcast_to(spatial[:, :1, :1], spatial.shape))
    assert set(np.unique(spatial)) == {0, 2}
    sequence = outputs["spatial 1D"]
    np.testing.assert_array_equal(sequence, np.broadcast_to(sequence[:, :1], sequence.shape))
    assert set(np.unique(sequence)) == {0, 2}


def test_noise_shape_is_obeyed(outputs: dict[str, Array]) -> None:
    shared = outputs["same for all channels"]
    np.testing.assert_array_equal(shared, np.broadcast_to(shared[..., :1], shared.shape))
    assert set(np.unique(shared)) == {0, 2}


def test_identity_at_rate_0_and_outside_training(outputs: dict[str, Array]) -> None:
    assert np.all(outputs["rate 0"] == 2.5)
    assert np.all(outputs["not training"] == 2.5)


def test_same_seed_same_outputs_and_another_others(drawn: Drawn) -> None:
    for name in ("first", "second", "dense", "spatial"):
        np.testing.assert_array_equal(drawn.outputs_again[name], drawn.outputs[name])
        assert np.any(drawn.outputs_of_another_seed[name] != drawn.outputs[name])


@pytest.mark.parametrize("runtime", available_runtimes())
def test_runtimes_draw_tensorflows_masks(drawn: Drawn, mask_model: Path, runtime: str) -> None:
    """Integer arithmetic that wraps around is the same everywhere, bit for bit."""
    observed = call_isolated(run_mask_model, mask_model, runtime, drawn.small.shape[1], SEEDS)
    np.testing.assert_array_equal(observed, drawn.small)
