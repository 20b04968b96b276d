"""Simulations side by side: what came of each, what reaching a target took, which settings differ. Pure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedfer.cli.simulation_report import series
from fedfer.cli.simulation_report.record import Record
from fedfer.cli.simulation_report.series import Point
from fedfer.cli.simulation_report.words import measure, percent, percent_short, seconds, size
from fedfer.model.errors import UsageError

MAX_RUNS = 20  # more curves are not told apart
NOT_SETTINGS = ("name", "title")  # of the scenario: what it is called
ABSENT = "-"


@dataclass(frozen=True)
class Run:
    """A record under the name that tells it from the others."""

    name: str
    record: Record


@dataclass(frozen=True)
class Outcome:
    """What came of a run; accuracy is that on held-out images, None where there are none. `target` is the
    first version that was as accurate as wanted. Bytes are of all devices."""

    name: str
    final_accuracy: float | None
    final_loss: float | None
    best: Point | None
    target: Point | None
    num_rounds: int
    num_devices: int
    virtual_sec: float
    wall_sec: float
    bytes_up: int
    bytes_down: int
    num_turned_away: int


def named(paths: Sequence[Path], records: Sequence[Record]) -> list[Run]:
    """Runs by the scenario's name; by the record's folder, or its path, where that does not tell them apart.

    Raises UsageError for more than `MAX_RUNS`.
    """
    if not 1 <= len(records) <= MAX_RUNS:
        raise UsageError(f"expected 1 to {MAX_RUNS} records to compare; received {len(records)}")
    folders = [(path if path.is_dir() else path.parent).name for path in paths]
    places = [f"{path} ({i})" if Counter(paths)[path] > 1 else str(path) for i, path in enumerate(paths)]
    for names in ([record.name for record in records], folders, places):
        if len(set(names)) == len(names) and all(names):
            return [Run(name, record) for name, record in zip(names, records, strict=True)]
    raise AssertionError("unreachable: places differ")


def wanted_accuracy(runs: Sequence[Run]) -> float | None:
    """The target that the records tell of: the highest, if they differ; None if they tell of none."""
    found = [series.wanted(run.record) for run in runs]
    return max((target for target in found if target is not None), default=None)


def outcome(run: Run, target: float | None) -> Outcome:
    """What came of a run. `target`: the accuracy that is asked for."""
    record, points = run.record, series.points(run.record)
    measures = record.final.measures
    last = points[-1] if points else None
    return Outcome(
        name=run.name,
        final_accuracy=measures.accuracy if measures else last.accuracy if last else None,
        final_loss=measures.loss if measures else last.loss if last else None,
        best=series.best(points),
        target=series.reached(points, target) if target is not None else None,
        num_rounds=sum(1 for each in record.rounds if each.round > 0),
        num_devices=len(record.devices),
        virtual_sec=record.virtual_sec,
        wall_sec=record.wall_sec,
        bytes_up=sum(each.bytes_up for each in record.rounds),
        bytes_down=sum(each.bytes_down for each in record.rounds),
        num_turned_away=sum(series.refusals(record).values()),
    )


def table(outcomes: Sequence[Outcome], target: float | None) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """A row a run."""
    to = () if target is None else (f"rounds to {percent_short(target)}", "time to it", "bytes to it")
    header = ("run", "devices", "rounds", "final accuracy", "loss", "best", "of round", *to)
    rows = []
    for each in outcomes:
        best = (percent(each.best.accuracy), str(each.best.round)) if each.best else (ABSENT, ABSENT)
        rows.append(
            (
                each.name,
                f"{each.num_devices:,}",
                f"{each.num_rounds:,}",
                percent(each.final_accuracy),
                measure(each.final_loss),
                *best,
                *(() if target is None else _target_cells(each.target)),
                seconds(each.virtual_sec),
                size(each.bytes_up),
                size(each.bytes_down),
                f"{each.num_turned_away:,}",
            )
        )
    return (*header, "virtual time", "up", "down", "turned away"), rows


def _target_cells(reached: Point | None) -> tuple[str, str, str]:
    if reached is None:
        return "not reached", ABSENT, ABSENT
    return str(reached.round), seconds(reached.virtual_sec), size(reached.bytes)


def settings(record: Record) -> dict[str, str]:
    """All that decides what comes of a run, and what it ran on, laid flat."""
    own = {key: value for key, value in record.scenario.items() if key not in NOT_SETTINGS}
    return {
        **dict(series.flat(own)),
        "seed": str(record.seed),
        "engine": record.engine,
        "runtime": record.runtime,
        "model.sha256": record.model.sha256[:12],
        "fedfer": record.fedfer_version,
    }


def differences(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Settings that are not the same in all runs: by name, a value for each run, `-` where it has none."""
    all_settings = [settings(run.record) for run in runs]
    names = dict.fromkeys(name for each in all_settings for name in each)
    found = {name: [each.get(name, ABSENT) for each in all_settings] for name in names}
    return {name: values for name, values in found.items() if len(set(values)) > 1}
