"""Early stopping: patience, minimum improvement, the best and not the last."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfer.aggregator.stopping import MeasuredVersion, StoppingSettings, judge
from fedfer.model.errors import UsageError

LOSSES = st.lists(st.sampled_from([x / 8 for x in range(1, 17)]), min_size=1, max_size=12)


def versions(losses: list[float], accuracies: list[float] | None = None) -> list[MeasuredVersion]:
    rates = accuracies or [0.5] * len(losses)
    return [MeasuredVersion(i, f"w{i}", *each) for i, each in enumerate(zip(losses, rates, strict=True))]


def test_stops_on_the_plateau_with_the_best() -> None:
    """1.5 is best; 1.6 and 1.5 again bring nothing: patience 2 is used up."""
    settings = StoppingSettings(patience=2)
    going = judge(versions([2.0, 1.5, 1.6]), settings)
    assert (going.waited, going.stop_reason) == (1, None)
    verdict = judge(versions([2.0, 1.5, 1.6, 1.5]), settings)
    assert (verdict.best, verdict.waited) == (MeasuredVersion(1, "w1", 1.5, 0.5), 2)
    assert verdict.stop_reason == (
        "holdout loss has not improved in 2 rounds; the best is round 1's: loss 1.5000, accuracy 0.500"
    )


def test_small_improvements_do_not_count_but_the_best_is_the_best() -> None:
    """Steps of 0.0625 with 0.125 wanted: the reference stays 2.0 until 1.8125; 0.125 itself is not more."""
    settings = StoppingSettings(patience=3, min_improvement=0.125)
    slow = judge(versions([2.0, 1.9375, 1.875, 1.8125]), settings)
    assert (slow.waited, slow.stop_reason) == (0, None)
    slower = judge(versions([2.0, 1.9375, 1.90625, 1.875]), settings)
    assert slower.best is not None
    assert (slower.waited, slower.best.round) == (3, 3)
    assert "by more than 0.125 in 3 rounds; the best is round 3's" in (slower.stop_reason or "")


def test_accuracy_rises() -> None:
    settings = StoppingSettings("accuracy", patience=1)
    rising = judge(versions([1, 2, 3], [0.1, 0.2, 0.3]), settings)
    assert (rising.waited, rising.best and rising.best.round) == (0, 2)
    falling = judge(versions([3, 2, 1], [0.3, 0.3, 0.2]), settings)
    assert (falling.waited, falling.best and falling.best.round) == (2, 0)
    assert falling.stop_reason


def test_nothing_measured_nothing_stopped() -> None:
    assert judge([], StoppingSettings()) == judge([], StoppingSettings(patience=1))
    assert judge([], StoppingSettings()).best is None


@given(losses=LOSSES, patience=st.integers(1, 4), wanted=st.sampled_from([0.0, 0.125, 0.5]))
def test_against_the_definition(losses: list[float], patience: int, wanted: float) -> None:
    """Stops exactly if the last `patience` versions are not better than the reference before them."""
    settings = StoppingSettings(patience=patience, min_improvement=wanted)
    verdict = judge(versions(losses), settings)
    assert verdict.best is not None
    assert verdict.best.loss == min(losses)
    assert verdict.best.round == losses.index(min(losses))
    stopped = verdict.stop_reason is not None
    assert stopped == (verdict.waited >= patience)
    if stopped:
        assert min(losses[-patience:]) >= min(losses[: len(losses) - patience]) - wanted
    if verdict.waited:
        before = judge(versions(losses[:-1]), settings)
        assert verdict.waited == before.waited + 1


@given(losses=LOSSES)
def test_more_patience_never_stops_earlier(losses: list[float]) -> None:
    stops = [
        judge(versions(losses), StoppingSettings(patience=p)).stop_reason is not None for p in range(1, 14)
    ]
    assert stops == sorted(stops, reverse=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"measure": "f1"}, "measure is 'f1'; expected loss or accuracy"),
        ({"patience": 0}, "patience is 0; expected 1"),
        ({"min_improvement": -0.1}, "min_improvement is -0.1; expected 0"),
        ({"min_improvement": float("nan")}, "min_improvement is nan; expected 0"),
    ],
)
def test_settings(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        StoppingSettings(**settings)  # type: ignore[arg-type]
