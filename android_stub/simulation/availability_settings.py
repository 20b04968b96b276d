"""When a kind of devices is there, as it stands in a scenario. Pure.

    availability = {daily = [["22:00", "06:30"]], jitter_sec = 3600}
    availability = {idle = 0.6, charging = 0.4, unmetered = 0.7, slot_sec = 1800}

`daily`: windows of the device's day, all of them shifted by a number of the device's own within +-jitter_sec.
The other form draws for each slot of the day, for each device, whether it is idle, charging and unmetered; it
is there when all three hold. Virtual time 0 is midnight.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from fedfer.android_stub.simulation.availability import DAY_SEC, Window
from fedfer.model.errors import UsageError
from fedfer.model.strict_settings import MAX_NUMBER, from_mapping, shown

MAX_WINDOWS = 1000  # of a day
_TIME = re.compile(r"([01]\d|2[0-4]):([0-5]\d)")


@dataclass(frozen=True)
class Daily:
    """Windows in seconds of the day; one that ends before it starts goes over midnight."""

    windows: tuple[Window, ...]
    jitter_sec: float = 0.0


@dataclass(frozen=True)
class States:
    """Probabilities in 0..1 of each state in a slot of the day, which holds a whole number of slots."""

    idle: float = 1.0
    charging: float = 1.0
    unmetered: float = 1.0
    slot_sec: float = 3600.0

    def __post_init__(self) -> None:
        """Raises UsageError."""
        for name in ("idle", "charging", "unmetered"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} is {getattr(self, name)}; expected a probability of 0 to 1")
        if not 60 <= self.slot_sec <= DAY_SEC or DAY_SEC % self.slot_sec:
            raise UsageError(f"slot_sec is {self.slot_sec}; expected 60 to {DAY_SEC:g}, a part of the day")

    @property
    def num_slots(self) -> int:
        return round(DAY_SEC / self.slot_sec)


def parse_availability(owner: str, given: object) -> Daily | States:
    """`owner` is whose setting it is, for messages. Raises UsageError."""
    if not isinstance(given, Mapping):
        raise UsageError(f"{owner} is {shown(given)}; expected {{daily = [...]}} or probabilities of states")
    if "daily" not in given:
        try:
            return from_mapping(States, given, owner)
        except UsageError as error:
            raise UsageError(str(error) if str(error).startswith(owner) else f"{owner}: {error}") from None
    for key in given:
        if key not in ("daily", "jitter_sec"):
            raise UsageError(f"{owner} has no setting {shown(key)} beside daily; expected jitter_sec")
    jitter_sec = given.get("jitter_sec", 0.0)
    if not is_number(jitter_sec) or not 0 <= jitter_sec <= DAY_SEC:
        raise UsageError(f"{owner}: jitter_sec is {shown(jitter_sec)}; expected 0 to {DAY_SEC:g}")
    windows = given["daily"]
    if not isinstance(windows, list) or not 1 <= len(windows) <= MAX_WINDOWS:
        raise UsageError(f'{owner}: daily is {shown(windows)}; expected windows such as ["22:00", "06:30"]')
    return Daily(tuple(_window(owner, window) for window in windows), float(jitter_sec))


def _window(owner: str, given: object) -> Window:
    texts = given if isinstance(given, list) and len(given) == 2 else [None]
    found = [_TIME.fullmatch(text) for text in texts if isinstance(text, str)]
    times = [60.0 * (60 * int(match[1]) + int(match[2])) for match in found if match]
    if len(times) != 2 or max(times) > DAY_SEC or times[0] == times[1]:
        raise UsageError(f'{owner}: a window is {shown(given)}; expected one such as ["22:00", "06:30"]')
    start, end = times
    return start, end if end > start else end + DAY_SEC


def is_number(value: object) -> bool:
    """A finite int or float as TOML gives it; no bool."""
    return type(value) in (int, float) and -MAX_NUMBER < value < MAX_NUMBER  # type: ignore[operator]
