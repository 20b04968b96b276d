"""One request at a time for each upload, the newest one wins: in every order, on a real event loop."""

from collections.abc import Awaitable, Callable

import anyio
import pytest

from fedfer.aggregator.turns import MAX_UPLOADS_A_DEVICE, Turns
from fedfer.model.errors import RefusedError


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with anyio.fail_after(30):
            await body()

    anyio.run(bounded)


class Requests:
    """Requests for one upload that receive for ever, or until `arrived`; then accept for a while."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.story: list[str] = []
        self.inside = 0

    async def request(self, name: str, arrived: anyio.Event, accepted: anyio.Event) -> None:
        try:
            async with self.turns.newest("d", "u") as turn:
                self.inside += 1
                assert self.inside == 1
                self.story.append(f"{name} receives")
                try:
                    with turn.interruptible():
                        await arrived.wait()
                    self.story.append(f"{name} accepts")
                    await accepted.wait()
                finally:
                    self.inside -= 1
            self.story.append(f"{name} done")
        except RefusedError as error:
            self.story.append(f"{name} {error.status} {error.code}")


def test_the_newest_ends_those_before_it() -> None:
    async def body() -> None:
        requests, never, now = Requests(), anyio.Event(), anyio.Event()
        now.set()
        async with anyio.create_task_group() as group:
            for name in "abc":
                group.start_soon(requests.request, name, never, now)
                await anyio.wait_all_tasks_blocked()
            group.start_soon(requests.request, "d", now, now)
        assert requests.story == [
            "a receives",
            "a 409 taken_over",
            "b receives",
            "b 409 taken_over",
            "c receives",
            "c 409 taken_over",
            "d receives",
            "d accepts",
            "d done",
        ]
        assert not requests.turns.is_busy("d", "u")

    run(body)


def test_what_has_come_whole_is_not_ended() -> None:
    async def body() -> None:
        requests, now, accepted = Requests(), anyio.Event(), anyio.Event()
        now.set()
        async with anyio.create_task_group() as group:
            group.start_soon(requests.request, "a", now, accepted)
            await anyio.wait_all_tasks_blocked()
            group.start_soon(requests.request, "b", now, accepted)
            group.start_soon(requests.request, "c", now, accepted)
            await anyio.wait_all_tasks_blocked()
            assert requests.story == ["a receives", "a accepts"]
            accepted.set()
        assert requests.story[:3] == ["a receives", "a accepts", "a done"]
        assert requests.story[-1] == "c done"

    run(body)


def test_other_uploads_are_not_touched() -> None:
    async def body() -> None:
        turns = Turns()
        async with turns.newest("d", "u") as one, turns.newest("d", "v"), turns.newest("e", "u"):
            assert not one.receiving.cancel_called
            assert turns.is_busy("e", "u")
            assert not turns.is_busy("e", "v")

    run(body)


def test_a_device_has_so_many_uploads_at_a_time() -> None:
    async def body() -> None:
        turns = Turns()
        async with anyio.create_task_group() as group:
            for number in range(MAX_UPLOADS_A_DEVICE):
                group.start_soon(hold, turns, "d", str(number))
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(RefusedError, match="under way") as caught:
                async with turns.newest("d", "one more"):
                    pass
            assert (caught.value.status, caught.value.code) == (429, "too_many_uploads")
            async with turns.newest("e", "first"):
                pass
            group.cancel_scope.cancel()
        async with turns.newest("d", "again"):
            pass

    run(body)


async def hold(turns: Turns, device: str, name: str) -> None:
    async with turns.newest(device, name):
        await anyio.sleep_forever()
