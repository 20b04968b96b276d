"""Devices that ask for work, answered together: those that come while others are answered are the next batch.

What a place in the round costs is durable first: a worker thread, a transaction, a wait for the disk. A fleet
that asks at once is given its places a batch at a time, and not by as many threads that wait for each other.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from fedfer.aggregator.device_store import Device
from fedfer.aggregator.precedence import Precedence
from fedfer.aggregator.runs import Run
from fedfer.aggregator.service import Service
from fedfer.aggregator.work import Work

MAX_RUNS_AT_ONCE = 8  # threads: a run whose disk or database is slow does not hold up others


@dataclass(frozen=True)
class Ask:
    device: Device
    run: str | None
    answer: asyncio.Future[tuple[Run, Work]]


class Asking:
    """For one event loop."""

    def __init__(self, service: Service, precedence: Precedence) -> None:
        self._service, self._precedence = service, precedence
        self._waiting = dict[str, list[Ask]]()  # by the run that is asked first
        self._answering = dict[str, asyncio.Task[None]]()
        self._threads = ThreadPoolExecutor(MAX_RUNS_AT_ONCE, "asks")  # their own: not behind uploads' pieces

    def close(self) -> None:
        """Returns once nothing is being answered."""
        self._threads.shutdown()

    async def work(self, device: Device, run: str | None) -> tuple[Run, Work]:
        """As `Service.works`, for one. Raises RefusedError, StoreError."""
        # All devices ask, all the time: most are told at once that they have to wait, without a thread.
        found = self._service.settled_work(device, run)
        if found is not None:
            return found
        first = self._service.first_run(device, run).name
        ask = Ask(device, run, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(first, []).append(ask)
        if first not in self._answering:
            self._answering[first] = asyncio.create_task(self._answer(first))
        return await ask.answer

    async def _answer(self, first: str) -> None:
        try:
            with self._precedence.asking():
                while asks := self._waiting.pop(first, None):
                    for ask, answer in zip(asks, await self._answers(asks), strict=True):
                        if ask.answer.done():  # cancelled
                            continue
                        if isinstance(answer, Exception):
                            ask.answer.set_exception(answer)
                        else:
                            ask.answer.set_result(answer)
        finally:
            del self._answering[first]

    async def _answers(self, asks: Sequence[Ask]) -> Sequence[tuple[Run, Work] | Exception]:
        questions = [(ask.device, ask.run) for ask in asks]
        try:
            run_in_thread = asyncio.get_running_loop().run_in_executor
            return await run_in_thread(self._threads, self._service.works, questions)
        except Exception as error:  # not theirs, but they are to hear of it
            return [error] * len(asks)
