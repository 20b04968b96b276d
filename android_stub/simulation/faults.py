"""What breaks in a simulated fleet: `[faults]` of a scenario, and which faults strike which task. Pure.

A task is one device in one round. Probabilities are of every task for itself; moments are in virtual seconds
since the start of the simulation. Each kind of fault draws numbers of its own from (seed, device, round), so
that a change to one of them leaves the others where they were.

    kill           the process that trains is killed in the middle of a step; the task goes on elsewhere
    cut_upload     the connection is cut after a share of the update's bytes, then the upload goes on
    repeat_upload  the same update is sent twice, as after an answer that was lost
    stale_upload   before its update the device sends one that was trained from another version
    wrong_model    before its update the device sends a checkpoint of another model
    nan            before its update the device sends one that holds NaN
    delay          the device is silent for a while between training and upload
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from fedfer.model.errors import UsageError
from fedfer.model.strict_settings import from_mapping, shown

FaultKind = Literal[
    "kill", "cut_upload", "repeat_upload", "stale_upload", "wrong_model", "nan", "delay"
]  # in the order of their draws: new ones go to the end
KINDS: tuple[FaultKind, ...] = get_args(FaultKind)
MAX_SEC = 1e9
MAX_MOMENTS = 10_000
# First words of the entropy: no stream is shared with training (trainer.Seeds) or attacks.
_TASK, _CLOCK = 21, 22


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong in a task. `share` in 0..1: how much of the training is done when it is
    killed, how much of the update is sent when it is cut. `delay_sec` is the delay's."""

    kind: FaultKind
    share: float = 0.0
    delay_sec: float = 0.0


@dataclass(frozen=True)
class FaultSettings:
    """Probabilities in 0..1 of each fault of tasks; a delay is drawn from 0..`delay_sec`. Every device's
    clock is off by up to `clock_offset_sec`, either way. `aggregator_kill_at_sec`: when the server is killed,
    to be started again at once; `network_down`: pairs (from, to) between which nobody reaches it. Raises
    UsageError."""

    kill: float = 0.0
    cut_upload: float = 0.0
    repeat_upload: float = 0.0
    stale_upload: float = 0.0
    wrong_model: float = 0.0
    nan: float = 0.0
    delay: float = 0.0
    delay_sec: float = 30.0
    clock_offset_sec: float = 0.0
    aggregator_kill_at_sec: tuple[float, ...] = ()
    network_down: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        for kind in KINDS:
            _require(kind, getattr(self, kind), 1.0)
        for name in ("delay_sec", "clock_offset_sec"):
            _require(name, getattr(self, name), MAX_SEC)
        for moment in self.aggregator_kill_at_sec:
            _require("aggregator_kill_at_sec", moment, MAX_SEC)
        for begin, end in self.network_down:
            _require("network_down", begin, MAX_SEC)
            _require("network_down", end, MAX_SEC)
            if end <= begin:
                raise UsageError(
                    f"faults: network_down ends at {end:g} s; expected after its start at {begin:g} s"
                )

    @property
    def is_calm(self) -> bool:
        """Whether nothing ever breaks."""
        return self == FaultSettings(delay_sec=self.delay_sec)


def faults_of(settings: FaultSettings, seed: int, device: int, round_number: int) -> tuple[Fault, ...]:
    """The faults that strike this task, in the order in which they come: `kill` in the training, then
    `delay`, then what is sent before the update, then what happens to the update itself."""
    rng = _generator(_TASK, device, round_number, seed)
    drawn = rng.random((len(KINDS), 2))
    struck: dict[FaultKind, Fault] = {}
    for kind, (chance, share) in zip(KINDS, drawn.tolist(), strict=True):
        if chance < getattr(settings, kind):
            sec = share * settings.delay_sec if kind == "delay" else 0.0
            struck[kind] = Fault(kind, share if kind in ("kill", "cut_upload") else 0.0, sec)
    return tuple(struck[kind] for kind in ORDER if kind in struck)


ORDER: tuple[FaultKind, ...] = (
    "kill",
    "delay",
    "stale_upload",
    "wrong_model",
    "nan",
    "cut_upload",
    "repeat_upload",
)


def back_at_sec(settings: FaultSettings, at_sec: float) -> float:
    """The first moment from `at_sec` on at which the server can be reached; at the end of a gap it can."""
    for begin, end in sorted(settings.network_down):
        if begin <= at_sec < end:
            at_sec = end
    return at_sec


def clock_offset_sec(settings: FaultSettings, seed: int, device: int) -> float:
    """By how much this device's clock is ahead of the server's."""
    return float(settings.clock_offset_sec * (2 * _generator(_CLOCK, device, seed).random() - 1))


def fault_settings(table: Mapping[str, Any]) -> FaultSettings:
    """Settings from a scenario's `[faults]`. Raises UsageError, which names the key."""
    given = dict(table)
    moments = _listed("aggregator_kill_at_sec", given.pop("aggregator_kill_at_sec", []))
    gaps = [_listed("network_down", gap) for gap in _listed("network_down", given.pop("network_down", []))]
    if any(len(gap) != 2 for gap in gaps):
        raise UsageError(
            "faults: network_down holds something else than pairs; expected [[from_sec, to_sec], ...]"
        )
    downs = tuple((begin, end) for begin, end in gaps)
    settings = from_mapping(FaultSettings, given, "faults")
    return replace(settings, aggregator_kill_at_sec=moments, network_down=downs)


def _listed(name: str, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple) or len(value) > MAX_MOMENTS:
        raise UsageError(f"faults: {name} is {shown(value)}; expected a list of at most {MAX_MOMENTS}")
    return tuple(value)


def _require(name: str, value: Any, high: float) -> None:
    if type(value) not in (int, float) or not math.isfinite(value) or not 0 <= value <= high:
        raise UsageError(f"faults: {name} is {shown(value)}; expected a number in 0..{high:g}")


def _generator(*entropy: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))
