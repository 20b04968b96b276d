"""The devices that a run can count on, and how often they are to ask."""

import threading
from collections.abc import Callable

from fedfer.aggregator.config import ServerConfig
from fedfer.aggregator.device_store import Device, DeviceStore
from fedfer.aggregator.pace import jitter_of, remaining_sec, retry_after_sec
from fedfer.aggregator.rounds import Round

COUNT_SEC = 10.0  # how old the number of active devices may be
DURATIONS = 5  # rounds from which the length of the next is guessed


class Fleet:
    """Of one run. Methods raise StoreError. Asking how many and how long needs no lock; all else needs the
    run's."""

    def __init__(
        self, devices: DeviceStore, contract: str, server: ServerConfig, clock: Callable[[], float]
    ) -> None:
        self._devices, self._contract, self._server, self._clock = devices, contract, server, clock
        self._counted: tuple[float, int] | None = None  # when, and how many active devices without new ones
        self._counting = threading.Lock()
        self._durations_sec: list[float] = []

    def active(self) -> list[Device]:
        """Devices that were heard of lately and can train the run's model."""
        now, added = self._clock(), self._devices.num_added(self._contract)
        found = self._devices.active(now - self._server.active_sec, self._contract)
        self._counted = now, len(found) - added
        return found

    @property
    def is_counted(self) -> bool:
        """Whether `num_active` answers without asking the database."""
        return self._counted is not None and self._clock() <= self._counted[0] + COUNT_SEC

    def num_active(self) -> int:
        """How many: a count of some seconds ago, and who has enrolled since. One caller counts, others go by
        the last count meanwhile."""
        counted, now = self._counted, self._clock()
        if counted is None or now > counted[0] + COUNT_SEC:
            counted = self._count(counted, now)
        return counted[1] + self._devices.num_added(self._contract)

    def _count(self, last: tuple[float, int] | None, now: float) -> tuple[float, int]:
        if self._counting.acquire(blocking=last is None):
            try:
                added = self._devices.num_added(self._contract)
                active = self._devices.count_active(now - self._server.active_sec, self._contract)
                last = self._counted = now, active - added
            finally:
                self._counting.release()
        assert last is not None
        return last

    def note_durations(self, *durations_sec: float) -> None:
        """What rounds took, the newest first."""
        self._durations_sec = [*durations_sec, *self._durations_sec][:DURATIONS]

    def retry_after_sec(self, device: Device, round_: Round) -> float:
        """Seconds until a device that has to wait for this round is to ask again."""
        running_sec = self._clock() - (round_.selected_at or self._clock())
        left_sec = remaining_sec(self._durations_sec, running_sec) if round_.phase == "open" else 0.0
        jitter = jitter_of(device.name, round_.number, round(running_sec))
        return round(retry_after_sec(left_sec, self.num_active(), jitter, self._server.pace), 3)
