"""What one simulated device is like, drawn from settings: `draw_profiles`. Pure and seeded.

Device i's profile is a function of (settings, seed, i), so that a larger fleet begins with the same devices;
each number has a stream of its own, so that changing one setting leaves the others' draws where they were.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from fedfer.android_stub.simulation.availability import ALWAYS, DAY_SEC, Availability, repeating
from fedfer.android_stub.simulation.availability_settings import Daily, States
from fedfer.android_stub.simulation.profile_settings import NUMBERS, Distribution, ProfileSettings
from fedfer.android_stub.simulation.traces import Trace
from fedfer.model.errors import UsageError

_PROFILE = 31  # the entropy's first word: no stream is shared with training, attacks or faults
_CLASS, _AVAILABILITY, _FIRST_NUMBER = 0, 1, 2
_BITS = 125_000.0  # bytes of a megabit


@dataclass(frozen=True)
class Profile:
    """The defaults are one device of the fleet that nothing is said of: always there, 20 Mbit/s down, 8 up,
    50 ms; 45 examples a second, as the VGG trains in LiteRT on one thread of the machine in
    docs/benchmarks.md. `memory_bytes` is what one app may take; a fast clock is off by more than 0."""

    name: str = "phone"
    examples_per_sec: float = 45.0
    down_bytes_per_sec: float = 20 * _BITS
    up_bytes_per_sec: float = 8 * _BITS
    latency_sec: float = 0.05
    memory_bytes: float = 1e9
    drop_out_probability: float = 0.0
    clock_offset_sec: float = 0.0
    availability: Availability = ALWAYS

    def as_json(self) -> dict[str, Any]:
        """For a record: of the windows only their number and the share of time that they cover."""
        there = self.availability
        return {
            **{key: value for key, value in asdict(self).items() if key != "availability"},
            "availability": {
                "period_sec": there.period_sec,
                "num_windows": len(there.windows),
                "share": there.available_sec / there.period_sec,
            },
        }


def draw_profiles(
    settings: Sequence[ProfileSettings],
    num_devices: int,
    seed: int,
    traces: Sequence[Trace] = (),
) -> tuple[Profile, ...]:
    """A profile for each device. Without settings all are the default; a share is relative to their sum.

    Device i follows the recorded trace i modulo their number: when it is there, and how fast its network is
    if that was recorded. Raises UsageError for a negative seed or number.
    """
    if num_devices < 0 or seed < 0:
        raise UsageError(f"expected devices and seed of at least 0; received {num_devices} and {seed}")
    profiles = (_draw(settings, _Streams(seed, device)) for device in range(num_devices))
    if not traces:
        return tuple(profiles)
    return tuple(_following(profile, traces[device % len(traces)]) for device, profile in enumerate(profiles))


@dataclass(frozen=True)
class _Streams:
    """One device's random numbers, a stream for each thing drawn."""

    seed: int
    device: int

    def of(self, place: int) -> np.random.Generator:
        words = (_PROFILE, self.device, place, self.seed)
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))


def _draw(settings: Sequence[ProfileSettings], streams: _Streams) -> Profile:
    if not settings:
        return Profile()
    edges = np.cumsum([each.share for each in settings])
    place = np.searchsorted(edges, streams.of(_CLASS).random() * edges[-1], side="right")
    chosen = settings[min(int(place), len(settings) - 1)]
    numbers = {
        NUMBERS[key].field: _draw_number(distribution, streams.of(_FIRST_NUMBER + list(NUMBERS).index(key)))
        * NUMBERS[key].factor
        for key, distribution in chosen.numbers.items()
    }
    there = _draw_availability(chosen.availability, streams.of(_AVAILABILITY))
    return Profile(name=chosen.name, availability=there, **numbers)


def _draw_number(distribution: Distribution, rng: np.random.Generator) -> float:
    """Within the limits of the setting: what a lognormal draws beyond them is cut."""
    values = distribution.values
    match distribution.kind:
        case "uniform":
            drawn = rng.uniform(values[0], values[1])
        case "lognormal":
            drawn = values[0] * float(np.exp(values[1] * rng.standard_normal()))
        case _:
            drawn = values[int(rng.integers(len(values)))]
    return min(max(drawn, distribution.least), distribution.most)


def _draw_availability(settings: Daily | States | None, rng: np.random.Generator) -> Availability:
    """Whoever is never there in a period gets one slot of it: a device that never comes is no device."""
    match settings:
        case None:
            return ALWAYS
        case Daily():
            shift = rng.uniform(-settings.jitter_sec, settings.jitter_sec)
            return repeating([(a + shift, b + shift) for a, b in settings.windows], DAY_SEC)
    num_slots = settings.num_slots
    draws = rng.random((3, num_slots))
    chances = np.array([[settings.idle], [settings.charging], [settings.unmetered]])
    there = (draws < chances).all(axis=0)
    there[rng.integers(num_slots)] |= not there.any()
    length = DAY_SEC / num_slots
    return repeating(
        [(slot * length, (slot + 1) * length) for slot in np.flatnonzero(there).tolist()], DAY_SEC
    )


def _following(profile: Profile, trace: Trace) -> Profile:
    return replace(
        profile,
        availability=trace.availability,
        down_bytes_per_sec=trace.down_bytes_per_sec or profile.down_bytes_per_sec,
        up_bytes_per_sec=trace.up_bytes_per_sec or profile.up_bytes_per_sec,
    )
