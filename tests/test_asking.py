"""Devices that ask for work are answered in batches, on one event loop, each run's by themselves."""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from run_helpers import Phone, party, rounds_of

from fedfer.aggregator.asking import Asking
from fedfer.aggregator.config import RunConfig, RunSettings
from fedfer.aggregator.device_store import Device
from fedfer.aggregator.precedence import Precedence
from fedfer.aggregator.runs import Run
from fedfer.aggregator.service import Service
from fedfer.aggregator.work import Work
from fedfer.model.errors import FedferError, RefusedError

Answers = list[tuple[Run, Work] | BaseException]
TIMEOUT_SEC = 30


class Held:
    """A service whose answers are held back until told; which devices were asked for together."""

    def __init__(self, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches, self.may_answer = list[list[str]](), threading.Event()
        works = service.works

        def held(asks: Sequence[tuple[Device, str | None]]) -> list[tuple[Run, Work] | FedferError]:
            self.batches.append([device.name for device, _ in asks])
            if asks[0][1] != "other":
                assert self.may_answer.wait(TIMEOUT_SEC)
            return works(asks)

        monkeypatch.setattr(service, "works", held)


async def until_asked(held: Held, num_batches: int = 1) -> None:
    async with asyncio.timeout(TIMEOUT_SEC):
        while len(held.batches) < num_batches:
            await asyncio.sleep(0.001)


def ask(asking: Asking, phone: Phone, run: str | None = None) -> asyncio.Task[tuple[Run, Work]]:
    return asyncio.create_task(asking.work(phone.device, run))


def test_those_who_come_meanwhile_are_the_next_batch(
    tiny_tflite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with party(tiny_tflite, tmp_path, RunSettings(rounds_of(4))) as there:
        phones, held = there.phones(*"abcd"), Held(there.service, monkeypatch)
        stranger = Phone(there.run, replace(phones[0].device, contract="0" * 64))

        async def story() -> Answers:
            precedence = Precedence()
            asking = Asking(there.service, precedence)
            tasks = [ask(asking, phones[0])]
            await until_asked(held)
            giving_way = asyncio.create_task(precedence.give_way())
            tasks += [ask(asking, phone) for phone in (*phones[1:], stranger)]
            await asyncio.sleep(0)
            tasks[2].cancel()
            assert not giving_way.done()
            held.may_answer.set()
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            await giving_way
            asking.close()
            return answers

        first, second, cancelled, fourth, refused = asyncio.run(story())
        assert held.batches == [["a"], ["b", "c", "d"]]
        assert isinstance(cancelled, asyncio.CancelledError)
        assert isinstance(refused, RefusedError)
        works = [found[1] for found in (first, second, fourth) if isinstance(found, tuple)]
        assert [work.wait_reason for work in works] == [None, None, None]


def test_a_run_that_is_slow_holds_up_no_other(
    tiny_tflite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with party(tiny_tflite, tmp_path, RunSettings(rounds_of(1))) as there:
        there.service.add_run(RunConfig(tiny_tflite, name="other", settings=RunSettings(rounds_of(1))))
        phones, held = there.phones(*"ab"), Held(there.service, monkeypatch)

        async def story() -> tuple[str, str]:
            asking = Asking(there.service, Precedence())
            slow = ask(asking, phones[0], "default")
            await until_asked(held)
            run, _ = await asyncio.wait_for(ask(asking, phones[1], "other"), TIMEOUT_SEC)
            assert not slow.done()
            held.may_answer.set()
            return run.name, (await slow)[0].name

        assert asyncio.run(story()) == ("other", "default")


def test_what_goes_wrong_is_told_to_whoever_asked_and_the_next_are_answered(
    tiny_tflite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with party(tiny_tflite, tmp_path, RunSettings(rounds_of(2))) as there:
        phones, works = there.phones(*"ab"), there.service.works

        def broken(asks: object) -> list[tuple[Run, Work] | FedferError]:
            monkeypatch.setattr(there.service, "works", works)
            raise ZeroDivisionError

        monkeypatch.setattr(there.service, "works", broken)

        async def story() -> Answers:
            asking = Asking(there.service, Precedence())
            failed = await asyncio.gather(*(ask(asking, phone) for phone in phones), return_exceptions=True)
            return [*failed, await ask(asking, phones[0])]

        *failed, found = asyncio.run(story())
        assert [type(error) for error in failed] == [ZeroDivisionError] * 2
        assert isinstance(found, tuple)
        assert found[1].wait_reason is None
