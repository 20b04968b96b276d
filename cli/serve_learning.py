"""How the run called `default` of `fedfer serve` learns: options for its strategy, buffers, plateau, gates,
kept versions, and for the pace that devices are told. A run file (`--run`) has all settings there are.
"""

import argparse
import tomllib
from dataclasses import replace
from typing import Any

from fedfer.aggregator.config import RoundSettings, RunSettings
from fedfer.aggregator.gates import GateSettings
from fedfer.aggregator.pace import Pace
from fedfer.aggregator.retention import RetentionSettings
from fedfer.aggregator.stopping import MEASURES, StoppingSettings
from fedfer.model.errors import UsageError

MODES = ("sync", "async")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Defaults are those of the settings."""
    add = parser.add_argument
    add(
        "--strategy",
        default="fedavg",
        metavar="NAME[,KEY=VALUE...]",
        help="how updates are averaged (docs/strategies.md), such as fedadam,server_learning_rate=0.03",
    )
    add("--mode", choices=MODES, default=RoundSettings.mode, help="rounds, or buffers that take late updates")
    add(
        "--max-staleness",
        type=int,
        default=RoundSettings.max_staleness,
        help="of buffers: how many rounds ago the work of an update may have been given",
    )
    add(
        "--max-training",
        type=int,
        help="of buffers: devices that have work at a time; whoever asks gets some if not given",
    )
    add("--patience", type=int, help="rounds without improvement on the holdout images that end the run")
    add(
        "--plateau-measure",
        choices=MEASURES,
        default=StoppingSettings.measure,
        help="what has to improve for that",
    )
    gates = (
        ("--max-norm-ratio", "an update is turned away whose norm is so many times the round's median"),
        (
            "--max-update-drop",
            "an update is turned away that alone lowers holdout accuracy by a larger share",
        ),
        ("--max-candidate-drop", "a version is not taken that lowers holdout accuracy by a larger share"),
    )
    for option, words in gates:
        add(option, type=float, help=words + "; no such gate if not given")
    add(
        "--keep-last",
        type=int,
        help="versions that are kept, beside tagged ones and the best; all if not given",
    )
    pace = (
        (
            "--least-pause-sec",
            Pace.least_sec,
            "seconds until a waiting device asks again, at least",
        ),
        ("--most-pause-sec", Pace.most_sec, "and at most"),
        ("--asks-per-sec", Pace.asks_per_sec, "of all waiting devices together, at most"),
    )
    for option, default, words in pace:
        add(option, type=float, default=default, help=words)


def with_learning(settings: RunSettings, args: argparse.Namespace) -> RunSettings:
    """The settings with what these options say. Raises UsageError."""
    stopping = None
    if args.patience is not None:
        stopping = StoppingSettings(measure=args.plateau_measure, patience=args.patience)
    return replace(
        settings,
        rounds=replace(
            settings.rounds,
            mode=args.mode,
            max_staleness=args.max_staleness,
            max_training=args.max_training,
        ),
        strategy=strategy_of(args.strategy),
        stopping=stopping,
        gates=GateSettings(args.max_norm_ratio, args.max_update_drop, args.max_candidate_drop),
        retention=RetentionSettings(args.keep_last),
    )


def pace_of(args: argparse.Namespace) -> Pace:
    """Raises UsageError."""
    return Pace(least_sec=args.least_pause_sec, most_sec=args.most_pause_sec, asks_per_sec=args.asks_per_sec)


def strategy_of(text: str) -> dict[str, Any]:
    """`fedprox,proximal_mu=0.1` as the settings of a strategy, complete. Raises UsageError."""
    from fedfer.aggregator.strategies.base import settings_of
    from fedfer.aggregator.strategies.registry import make_strategy

    name, *pairs = text.split(",")
    settings: dict[str, Any] = {"name": name.strip()}
    for pair in pairs:
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not key or not equals or key in settings:
            raise UsageError(f"--strategy has {pair!r}; expected NAME,KEY=VALUE,... with each key once")
        try:
            (settings[key],) = tomllib.loads(f"value = {value}").values()
        except ValueError:
            raise UsageError(f"--strategy has {pair!r}; expected a number or a word after the =") from None
    return settings_of(make_strategy(settings))
