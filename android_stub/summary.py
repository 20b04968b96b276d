"""What a fleet did, added up from the events of its devices."""

from dataclasses import dataclass

from fedfer.android_stub.events import Event, Finished, Trained


@dataclass(frozen=True)
class FleetSummary:
    """What a finished fleet did; bytes are those of request and reply bodies."""

    num_devices: int
    num_rounds: int
    num_updates: int
    num_examples: int
    received_bytes: int
    sent_bytes: int
    final_weights: str


class Tally:
    """The sums of a summary, event by event."""

    def __init__(self) -> None:
        self._rounds: set[int] = set()
        self._num_updates = self._num_examples = self._received_bytes = self._sent_bytes = 0
        self._final_weights = ""

    def add(self, event: Event) -> None:
        if isinstance(event, Trained):
            self._rounds.add(event.round)
            self._num_updates += 1
            self._num_examples += event.num_examples
        elif isinstance(event, Finished):
            self._received_bytes += event.received_bytes
            self._sent_bytes += event.sent_bytes
            self._final_weights = event.final_weights

    def summary(self, num_devices: int) -> FleetSummary:
        return FleetSummary(
            num_devices=num_devices,
            num_rounds=len(self._rounds),
            num_updates=self._num_updates,
            num_examples=self._num_examples,
            received_bytes=self._received_bytes,
            sent_bytes=self._sent_bytes,
            final_weights=self._final_weights,
        )
