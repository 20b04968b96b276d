"""Devices that ask for work go before those that upload: an answer is a millisecond's work.

An answer that has to be durable is given by a worker thread, which among uploads waits for the interpreter at
each of its steps: some milliseconds instead of one.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

MAX_PAUSE_SEC = 0.05  # for each piece of a body: uploads get on however many ask


class Precedence:
    """For one event loop."""

    def __init__(self) -> None:
        self._asking, self._nobody_asks = 0, asyncio.Event()
        self._nobody_asks.set()

    @contextmanager
    def asking(self) -> Iterator[None]:
        """While a worker thread answers."""
        self._asking += 1
        self._nobody_asks.clear()
        try:
            yield
        finally:
            self._asking -= 1
            if not self._asking:
                self._nobody_asks.set()

    async def give_way(self) -> None:
        """Returns once nobody waits for an answer, or after MAX_PAUSE_SEC."""
        if self._asking:
            with suppress(TimeoutError):
                async with asyncio.timeout(MAX_PAUSE_SEC):
                    await self._nobody_asks.wait()
