"""One request at a time for each upload, and the newest one wins.

A phone whose network changed comes back while the server still waits for its old connection. So a request
for the same upload ends the one before it, and goes on once that has put down its last byte.
"""

from collections import Counter
from collections.abc import AsyncIterator, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import anyio

from fedfer.model.errors import RefusedError

MAX_UPLOADS_A_DEVICE = 8  # at a time


@dataclass(eq=False)
class Turn:
    """`receiving` is what a newer request may cut short; what follows it runs to its end."""

    receiving: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    done: anyio.Event = field(default_factory=anyio.Event)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """What is done in here ends when a newer request comes. Raises RefusedError (409 taken_over)."""
        with self.receiving:
            yield
        if self.receiving.cancelled_caught:
            raise RefusedError(
                "a newer request for this upload has taken over", code="taken_over", status=409
            )


class Turns:
    """For one event loop."""

    def __init__(self) -> None:
        self._turns: dict[Hashable, Turn] = {}
        self._of_device = Counter[str]()

    def is_busy(self, device_id: str, name: str) -> bool:
        """Whether a request for this upload is being worked on."""
        return (device_id, name) in self._turns

    @asynccontextmanager
    async def newest(self, device_id: str, name: str) -> AsyncIterator[Turn]:
        """Ends the request before this one, waits until it is done, and holds the upload until the end."""
        key, turn = (device_id, name), Turn()
        before, self._turns[key] = self._turns.get(key), turn
        try:
            if before is not None:
                before.receiving.cancel()
                with anyio.CancelScope(shield=True):  # also if a newer one comes: nobody may overtake
                    await before.done.wait()
            with self.upload_of(device_id):
                yield turn
        finally:
            turn.done.set()
            if self._turns.get(key) is turn:
                del self._turns[key]

    @contextmanager
    def upload_of(self, device_id: str) -> Iterator[None]:
        """Counts an upload of a device while it lasts. Raises RefusedError (429 too_many_uploads)."""
        if self._of_device[device_id] >= MAX_UPLOADS_A_DEVICE:
            raise RefusedError(
                f"{MAX_UPLOADS_A_DEVICE} uploads of this device are under way; end one first",
                code="too_many_uploads",
                status=429,
                headers={"Retry-After": "1"},
            )
        self._of_device[device_id] += 1
        try:
            yield
        finally:
            self._of_device[device_id] -= 1
            if not self._of_device[device_id]:
                del self._of_device[device_id]
