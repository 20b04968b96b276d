"""From a scenario's `profiles` and `trace` to the profiles of a fleet's devices.

`profiles`: tables (`[[profiles]]`), the name of a fleet that comes with fedfer, or such a name and a factor
for another model than the VGG: `{fleet = "phones-2024", speed = 15}`. `trace` is a CSV.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedfer.android_stub.simulation.profile_settings import SPEED, ProfileSettings, parse_profiles
from fedfer.android_stub.simulation.profiles import Profile, draw_profiles
from fedfer.android_stub.simulation.traces import read_traces
from fedfer.model.errors import UsageError
from fedfer.model.strict_settings import from_mapping, shown

FLEETS = Path(__file__).parent / "fleets"


@dataclass(frozen=True)
class FleetChoice:
    """`profiles` as one table: a fleet of the package, its devices `speed` times as fast in training."""

    fleet: str = ""
    speed: float = 1.0

    def __post_init__(self) -> None:
        """Raises UsageError."""
        if self.fleet not in packaged_fleets():
            raise UsageError(
                f"no fleet is called {shown(self.fleet)}; expected {', '.join(packaged_fleets())}, or "
                "[[profiles]] tables"
            )
        if not 1e-6 <= self.speed <= 1e6:
            raise UsageError(f"profiles: speed is {self.speed}; expected a factor of 1e-06 to 1e+06")


def packaged_fleets() -> list[str]:
    """Names of the fleets that come with fedfer."""
    return sorted(path.stem for path in FLEETS.glob("*.toml"))


def fleet_profiles(
    profiles: str | Mapping[str, Any] | Sequence[Mapping[str, Any]],
    trace: Path | None,
    num_devices: int,
    seed: int,
) -> tuple[Profile, ...]:
    """A profile for each device. Raises UsageError for settings, DataError for a trace."""
    traces = () if trace is None else read_traces(trace)
    return draw_profiles(profile_settings(profiles), num_devices, seed, traces)


def profile_settings(profiles: object) -> tuple[ProfileSettings, ...]:
    """Raises UsageError."""
    if isinstance(profiles, str):
        return _packaged(FleetChoice(profiles))
    if isinstance(profiles, Mapping):
        return _packaged(from_mapping(FleetChoice, profiles, "profiles"))
    if not isinstance(profiles, Sequence) or not all(isinstance(table, Mapping) for table in profiles):
        raise UsageError(f"profiles is {shown(profiles)}; expected [[profiles]] tables or a fleet's name")
    return parse_profiles(profiles)


def _packaged(choice: FleetChoice) -> tuple[ProfileSettings, ...]:
    text = (FLEETS / f"{choice.fleet}.toml").read_text(encoding="utf-8")
    kinds = parse_profiles(tomllib.loads(text)["profiles"])
    return tuple(
        replace(kind, numbers={**kind.numbers, SPEED: kind.numbers[SPEED].times(choice.speed)})
        for kind in kinds
    )
