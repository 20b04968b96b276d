"""The devices that a run can count on, and how often they are to ask."""

from collections.abc import Callable

from fedfer.aggregator.config import ServerConfig
from fedfer.aggregator.device_store import Device, DeviceStore
from fedfer.aggregator.pace import jitter_of, remaining_sec, retry_after_sec
from fedfer.aggregator.rounds import Round

COUNT_SEC = 10.0  # how old the number of active devices may be
DURATIONS = 5  # rounds from which the length of the next is guessed


class Fleet:
    """Of one run. Methods raise StoreError; what changes it needs the run's lock held. (Two callers that
    count the active devices at once do no harm.)"""

    def __init__(
        self, devices: DeviceStore, contract: str, server: ServerConfig, clock: Callable[[], float]
    ) -> None:
        self._devices, self._contract, self._server, self._clock = devices, contract, server, clock
        self._counted: tuple[float, int] | None = None  # when, and how many active devices
        self._durations_sec: list[float] = []

    def active(self) -> list[Device]:
        """Devices that were heard of lately and can train the run's model."""
        now = self._clock()
        found = self._devices.active(now - self._server.active_sec, self._contract)
        self._counted = now, len(found)
        return found

    def num_active(self) -> int:
        """How many, as of some seconds ago."""
        if self._counted is None or self._clock() > self._counted[0] + COUNT_SEC:
            return len(self.active())
        return self._counted[1]

    def note_durations(self, *durations_sec: float) -> None:
        """What rounds took, the newest first."""
        self._durations_sec = [*durations_sec, *self._durations_sec][:DURATIONS]

    def retry_after_sec(self, device: Device, round_: Round) -> float:
        """Seconds until a device that has to wait for this round is to ask again."""
        running_sec = self._clock() - (round_.selected_at or self._clock())
        left_sec = remaining_sec(self._durations_sec, running_sec) if round_.phase == "open" else 0.0
        jitter = jitter_of(device.name, round_.number, round(running_sec))
        return round(retry_after_sec(left_sec, self.num_active(), jitter, self._server.pace), 3)
