"""Uploads give way to devices that ask for work, for a while."""

import asyncio
import time

from fedfer.aggregator.precedence import MAX_PAUSE_SEC, Precedence


def test_at_once_when_nobody_asks_and_once_the_last_one_is_answered() -> None:
    async def story() -> list[str]:
        precedence, events = Precedence(), list[str]()

        async def upload() -> None:
            await precedence.give_way()
            events.append("a piece")

        await upload()
        with precedence.asking():
            with precedence.asking():
                waiting = asyncio.create_task(upload())
                await asyncio.sleep(0)
            events.append("one is answered")
            await asyncio.sleep(0)
            events.append("the other, too")
        await waiting
        return events

    assert asyncio.run(story()) == ["a piece", "one is answered", "the other, too", "a piece"]


def test_not_for_ever() -> None:
    async def story() -> float:
        precedence = Precedence()
        with precedence.asking():
            begun = time.monotonic()
            await precedence.give_way()
            return time.monotonic() - begun

    assert asyncio.run(story()) >= 0.9 * MAX_PAUSE_SEC
