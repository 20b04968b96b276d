"""What `fedfer serve` is told about learning: options, what they become, what is refused."""

import argparse

import pytest

from fedfer.aggregator.config import RoundSettings, RunSettings
from fedfer.aggregator.gates import GateSettings
from fedfer.aggregator.pace import Pace
from fedfer.aggregator.retention import RetentionSettings
from fedfer.aggregator.stopping import StoppingSettings
from fedfer.cli.serve import config_of, declare, settings_of
from fedfer.cli.serve_learning import pace_of, strategy_of
from fedfer.cli.settings import values_of
from fedfer.model.errors import UsageError


def arguments(*options: str, **environ: str) -> argparse.Namespace:
    """As `fedfer serve` settles them, for a model and a directory."""
    parser = argparse.ArgumentParser()
    declare(parser)
    given = parser.parse_args(["m.tflite", "--data-dir", "d", *options])
    return values_of(settings_of(given, environ))


def learned(*options: str, **environ: str) -> RunSettings:
    (run,) = config_of(arguments(*options, **environ)).runs
    return run.settings


def test_without_options_all_is_as_the_settings_say() -> None:
    assert learned() == RunSettings(strategy={"name": "fedavg"})
    assert pace_of(arguments()) == Pace()


def test_every_option_becomes_a_setting() -> None:
    holdout = ("--holdout", "drawn", "--patience", "4", "--plateau-measure", "accuracy")
    gates = ("--max-norm-ratio", "5", "--max-update-drop", "0.2", "--max-candidate-drop", "0.1")
    buffers = ("--mode", "async", "--max-staleness", "7", "--max-training", "9", "--keep-last", "20")
    found = learned("--strategy", "fedadam,beta1=0.5", *holdout, *gates, *buffers)
    assert found.strategy["name"] == "fedadam"
    assert found.strategy["beta1"] == 0.5
    assert found.stopping == StoppingSettings(measure="accuracy", patience=4)
    assert found.gates == GateSettings(5.0, 0.2, 0.1)
    assert found.retention == RetentionSettings(keep_last=20)
    assert found.rounds == RoundSettings(mode="async", max_staleness=7, max_training=9)
    pace = arguments("--least-pause-sec", "2", "--most-pause-sec", "60", "--asks-per-sec", "5")
    assert config_of(pace).pace == Pace(least_sec=2.0, most_sec=60.0, asks_per_sec=5.0)


def test_the_environment_says_the_same() -> None:
    assert learned(FEDFER_STRATEGY="fedprox,proximal_mu=0.1").strategy == {
        "name": "fedprox",
        "proximal_mu": 0.1,
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fedsum", "strategy 'fedsum' is unknown; expected one of fedavg, fedprox"),
        ("", "strategy '' is unknown"),
        ("krum,f=1", "strategy krum has no setting 'f'"),
        ("fedprox,proximal_mu", "expected NAME,KEY=VALUE"),
        ("fedprox,proximal_mu=0.1,proximal_mu=0.2", "each key once"),
        ("fedprox,name=krum", "each key once"),
        ("fedprox,proximal_mu=much", "expected a number or a word after the ="),
        ("fedprox,proximal_mu=-1", "proximal_mu is -1"),
        ("fedprox,proximal_mu=true", "proximal_mu"),
        ("fedprox,proximal_mu=1\nother=2", "expected a number"),
    ],
)
def test_strategies_that_are_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        strategy_of(text)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--patience", "3"), "stopping and gates need some"),
        (("--max-norm-ratio", "0.5"), "max_norm_ratio is 0.5; expected 1 to 1e9"),
        (("--keep-last", "0"), "keep_last is 0"),
        (("--least-pause-sec", "0"), "expected numbers above 0"),
        (("--most-pause-sec", "0.1"), "the least first"),
        (("--most-pause-sec", "nan"), "the least first"),
        (("--asks-per-sec", "0"), "asks a second are 0"),
    ],
)
def test_settings_that_are_refused(options: tuple[str, ...], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        config_of(arguments(*options))


def test_a_strategy_needs_its_updates() -> None:
    """Krum of three is no Krum; the run is not opened."""
    from fedfer.aggregator.round_opening import opening_settings

    with pytest.raises(UsageError, match="strategy krum needs at least"):
        opening_settings(learned("--strategy", "krum", "--clients", "2"))
