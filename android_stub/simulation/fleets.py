"""From a scenario's `profiles` and `trace` to the profiles of a fleet's devices.

`profiles` is a list of tables (`[[profiles]]`) or the name of a fleet that comes with fedfer; `trace` a CSV.
"""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedfer.android_stub.simulation.profile_settings import ProfileSettings, parse_profiles
from fedfer.android_stub.simulation.profiles import Profile, draw_profiles
from fedfer.android_stub.simulation.traces import read_traces
from fedfer.model.errors import UsageError
from fedfer.model.strict_settings import shown

FLEETS = Path(__file__).parent / "fleets"


def packaged_fleets() -> list[str]:
    """Names of the fleets that come with fedfer."""
    return sorted(path.stem for path in FLEETS.glob("*.toml"))


def fleet_profiles(
    profiles: str | Sequence[Mapping[str, Any]], trace: Path | None, num_devices: int, seed: int
) -> tuple[Profile, ...]:
    """A profile for each device. Raises UsageError for settings, DataError for a trace."""
    traces = () if trace is None else read_traces(trace)
    return draw_profiles(profile_settings(profiles), num_devices, seed, traces)


def profile_settings(profiles: object) -> tuple[ProfileSettings, ...]:
    """Raises UsageError."""
    if isinstance(profiles, str):
        if profiles not in packaged_fleets():
            raise UsageError(
                f"no fleet is called {shown(profiles)}; expected {', '.join(packaged_fleets())}, or "
                "[[profiles]] tables"
            )
        profiles = tomllib.loads((FLEETS / f"{profiles}.toml").read_text(encoding="utf-8"))["profiles"]
    if not isinstance(profiles, Sequence) or not all(isinstance(table, Mapping) for table in profiles):
        raise UsageError(f"profiles is {shown(profiles)}; expected [[profiles]] tables or a fleet's name")
    return parse_profiles(profiles)
