"""`[[profiles]]` of a scenario: kinds of devices, each number fixed or drawn from a distribution. Pure.

    [[profiles]]
    name = "mid"
    share = 0.5                                     # of the fleet, relative to the other profiles' shares
    examples_per_sec = {lognormal = [40, 0.3]}      # median, and sigma of the logarithm
    down_mbit_per_sec = {uniform = [10, 50]}
    up_mbit_per_sec = 8
    latency_sec = {choice = [0.02, 0.05, 0.2]}
    memory_mb = 512                                 # what the app may take, in 10^6 bytes
    drop_out_probability = 0.05                     # of a task
    clock_offset_sec = {uniform = [-5, 5]}
    availability = {daily = [["22:00", "06:30"]], jitter_sec = 3600}
    # or: availability = {idle = 0.6, charging = 0.4, unmetered = 0.7, slot_sec = 1800}

When a device is there: `availability_settings`. What is left out is as in `profiles.Profile`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from fedfer.android_stub.simulation.availability_settings import (
    Daily,
    States,
    is_number,
    parse_availability,
)
from fedfer.model.errors import UsageError
from fedfer.model.strict_settings import from_mapping, shown

MAX_PROFILES = 100
MAX_VALUES = 1000  # of a choice
MAX_SIGMA = 5.0
MAX_NAME_CHARS = 64


@dataclass(frozen=True)
class Number:
    """A setting that is a number: the field of `Profile` it gives, times `factor`, and its limits."""

    field: str
    least: float
    most: float
    factor: float = 1.0


SPEED = "examples_per_sec"
NUMBERS: Mapping[str, Number] = MappingProxyType(
    {  # in the order of their draws: new ones go to the end
        SPEED: Number("examples_per_sec", 1e-6, 1e9),
        "down_mbit_per_sec": Number("down_bytes_per_sec", 1e-6, 1e9, 125_000.0),
        "up_mbit_per_sec": Number("up_bytes_per_sec", 1e-6, 1e9, 125_000.0),
        "latency_sec": Number("latency_sec", 0.0, 3600.0),
        "memory_mb": Number("memory_bytes", 1.0, 1e9, 1e6),
        "drop_out_probability": Number("drop_out_probability", 0.0, 1.0),
        "clock_offset_sec": Number("clock_offset_sec", -1e8, 1e8),
    }
)


@dataclass(frozen=True)
class Distribution:
    """`kind` choice (of `values`, each as likely), uniform (values a, b) or lognormal (median, sigma); what
    is drawn stays within `least`..`most`."""

    kind: str
    values: tuple[float, ...]
    least: float
    most: float

    def times(self, factor: float) -> "Distribution":
        """Of what is drawn; the sigma of a lognormal stays."""
        scaled = tuple(value * factor for value in self.values)
        return replace(self, values=(scaled[0], self.values[1]) if self.kind == "lognormal" else scaled)


@dataclass(frozen=True)
class ProfileSettings:
    """One kind of devices: `numbers` by the names of `NUMBERS`; `availability` None is always."""

    name: str = "phone"
    share: float = 1.0
    numbers: Mapping[str, Distribution] = field(default_factory=lambda: MappingProxyType({}))
    availability: Daily | States | None = None


def parse_profiles(tables: Sequence[Mapping[str, Any]]) -> tuple[ProfileSettings, ...]:
    """The `[[profiles]]` tables of a TOML file. Raises UsageError, which names the profile and the key."""
    if len(tables) > MAX_PROFILES:
        raise UsageError(f"expected at most {MAX_PROFILES} profiles; received {len(tables)}")
    return tuple(_profile(table, place) for place, table in enumerate(tables, start=1))


@dataclass(frozen=True)
class _Plain:
    name: str = ProfileSettings.name
    share: float = ProfileSettings.share


def _profile(table: Mapping[str, Any], place: int) -> ProfileSettings:
    owner = f"profile {place}"
    known = ("name", "share", *NUMBERS, "availability")
    for key in table:
        if key not in known:
            raise UsageError(f"{owner} has no setting {shown(key)}; its settings: {', '.join(known)}")
    plain = from_mapping(_Plain, {key: table[key] for key in ("name", "share") if key in table}, owner)
    if not plain.name.isprintable() or not 1 <= len(plain.name) <= MAX_NAME_CHARS:
        raise UsageError(f"{owner}: name is {shown(plain.name)}; expected 1 to {MAX_NAME_CHARS} characters")
    if not 0 < plain.share <= 1e6:
        raise UsageError(f"{owner}: share is {plain.share}; expected a number above 0")
    return ProfileSettings(
        plain.name,
        plain.share,
        {key: _distribution(f"{owner}: {key}", table[key], NUMBERS[key]) for key in NUMBERS if key in table},
        parse_availability(f"{owner}: availability", table["availability"])
        if "availability" in table
        else None,
    )


def _distribution(owner: str, given: object, number: Number) -> Distribution:
    """A number, or one of `{uniform = [a, b]}`, `{lognormal = [median, sigma]}`, `{choice = [...]}`."""
    kind, values = "choice", [given]
    if isinstance(given, Mapping):
        if len(given) != 1 or not set(given) <= {"uniform", "lognormal", "choice"}:
            raise UsageError(
                f"{owner} is {shown(dict(given))}; expected a number or one of uniform, lognormal, choice"
            )
        ((kind, values),) = given.items()
    return Distribution(kind, _values(owner, kind, values, number), number.least, number.most)


def _values(owner: str, kind: str, values: object, number: Number) -> tuple[float, ...]:
    wanted = range(1, MAX_VALUES + 1) if kind == "choice" else (2,)
    if not isinstance(values, list) or len(values) not in wanted or not all(map(is_number, values)):
        expected = "numbers" if kind == "choice" else "two numbers"
        raise UsageError(f"{owner}: {kind} is {shown(values)}; expected {expected}")
    checked = tuple(map(float, values))
    for value in checked[:1] if kind == "lognormal" else checked:
        if not number.least <= value <= number.most:
            raise UsageError(f"{owner} is {value:g}; expected {number.least:g} to {number.most:g}")
    if kind == "lognormal" and not (checked[0] > 0 and 0 <= checked[1] <= MAX_SIGMA):
        raise UsageError(
            f"{owner}: lognormal is {shown(values)}; expected a median above 0, a sigma 0 to {MAX_SIGMA:g}"
        )
    if kind == "uniform" and checked[0] > checked[1]:
        raise UsageError(f"{owner}: uniform is {shown(values)}; expected the smaller number first")
    return checked
