"""How long asking for work takes while many devices ask and others upload."""

import asyncio
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MAX_PAUSE_SEC, CHECK_SEC = 10.0, 1.0
FIRST_ASK_SEC = 5.0  # devices did not all begin at once


@dataclass(frozen=True)
class Polling:
    """Milliseconds from a request's first byte to its answer's last, of `num_asks` asks by `num_devices`
    devices in `seconds`."""

    num_devices: int
    num_asks: int
    seconds: float
    p50_ms: float
    p99_ms: float
    max_ms: float


class Poller:
    """A device on a connection that stays open; plain asyncio streams cost the least."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port

    async def open(self, name: str) -> None:
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        reply = await self._call("/v1/devices", json.dumps({"name": name}).encode(), "")
        self._token = f"Authorization: Bearer {reply['token']}\r\n"

    async def ask(self) -> dict[str, Any]:
        return await self._call("/v1/work", b"", self._token)

    def close(self) -> None:
        self._writer.close()

    async def _call(self, path: str, body: bytes, token: str) -> dict[str, Any]:
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n{token}"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._writer.write(head.encode() + body)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(answer.split("content-length:")[1].split("\r\n")[0])
        data = await self._reader.readexactly(length)
        if int(answer.split()[1]) >= 300:
            raise RuntimeError(f"the server answered {data[:300]!r}")
        parsed: dict[str, Any] = json.loads(data)
        return parsed


async def poll(
    host: str, port: int, num_devices: int, begin: Callable[[], None], is_over: Callable[[], bool]
) -> Polling:
    """Devices enrol, `begin` is called, and each asks for work, again whenever the server told it to, until
    all is over."""
    pollers, taken = [Poller(host, port) for _ in range(num_devices)], list[float]()
    for number, poller in enumerate(pollers):
        await poller.open(f"poller-{number}")
    begin()
    started = time.monotonic()
    await asyncio.gather(*(_live(poller, is_over, taken) for poller in pollers))
    seconds = time.monotonic() - started
    for poller in pollers:
        poller.close()
    ordered = sorted(sec * 1e3 for sec in taken)
    at = [ordered[min(int(share * len(ordered)), len(ordered) - 1)] for share in (0.5, 0.99, 1.0)]
    return Polling(num_devices, len(ordered), seconds, *at)


async def _live(poller: Poller, is_over: Callable[[], bool], taken: list[float]) -> None:
    """Asks once at least."""
    await asyncio.sleep(FIRST_ASK_SEC * random.random())
    while True:
        started = time.monotonic()
        work = await poller.ask()
        answered = time.monotonic()
        taken.append(answered - started)
        next_at = answered + min(float(work.get("retry_after_sec", MAX_PAUSE_SEC)), MAX_PAUSE_SEC)
        while not is_over() and (left_sec := next_at - time.monotonic()) > 0:
            await asyncio.sleep(min(left_sec, CHECK_SEC))
        if is_over():
            return
