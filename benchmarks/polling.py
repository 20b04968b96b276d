"""How long asking for work takes while many devices ask and others upload.

What is measured is the server. An answer counts as there when the kernel has put its last byte into the
device's socket (SO_TIMESTAMPNS), not when the process that plays 500 devices gets round to it: that process
waits for its turn on the cores and in its own event loop, which a phone does not. Linux.
"""

import asyncio
import json
import math
import random
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MAX_PAUSE_SEC, CHECK_SEC = 10.0, 1.0
FIRST_ASK_SEC = 5.0  # devices did not all begin at once
SO_TIMESTAMPNS = 35  # which Python has no name for: received bytes come with when they were received
READ_BYTES, STAMP_BYTES = 1 << 16, 64


@dataclass(frozen=True)
class Polling:
    """Milliseconds from a request's first byte to its answer's last in the device's socket, of `num_asks`
    asks by `num_devices` devices in `seconds`; of those that are told to wait, and of the `num_given` that
    are given a place in the round, which is durable first. `seen_p99_ms`: until the process that plays the
    devices has read it."""

    num_devices: int
    num_asks: int
    seconds: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    wait_p50_ms: float
    wait_p99_ms: float
    num_given: int
    given_p50_ms: float
    given_p99_ms: float
    seen_p99_ms: float


@dataclass(frozen=True)
class Ask:
    """Seconds until the answer was in the device's socket, and until it was read."""

    sec: float
    seen_sec: float
    is_given: bool


class Poller:
    """A device on a connection that stays open."""

    def __init__(self, host: str, port: int) -> None:
        self._address, self._host = (host, port), f"{host}:{port}"
        self._answer, self._whole = bytearray(), asyncio.Future[float]()

    async def open(self, name: str) -> None:
        self._socket = socket.create_connection(self._address)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._socket.setblocking(False)
        asyncio.get_running_loop().add_reader(self._socket, self._read)
        reply, _ = await self._call("/v1/devices", json.dumps({"name": name}).encode(), "")
        self._token = f"Authorization: Bearer {reply['token']}\r\n"

    async def ask(self) -> tuple[dict[str, Any], float]:
        """What to do, and how many seconds the answer took."""
        return await self._call("/v1/work", b"", self._token)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    async def _call(self, path: str, body: bytes, token: str) -> tuple[dict[str, Any], float]:
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self._host}\r\n{token}"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._answer.clear()
        self._whole = asyncio.get_running_loop().create_future()
        started = time.time()
        self._socket.send(head.encode() + body)  # some hundred bytes: all of it, at once
        arrived = await self._whole
        status, data = int(self._answer.split()[1]), self._answer.partition(b"\r\n\r\n")[2]
        if status >= 300:
            raise RuntimeError(f"the server answered {data[:300]!r}")
        parsed: dict[str, Any] = json.loads(data)
        return parsed, arrived - started

    def _read(self) -> None:
        """Puts what came to the answer; when it is whole, that is the time at which its last byte came."""
        data, ((_, _, stamp), *_), *_ = self._socket.recvmsg(READ_BYTES, STAMP_BYTES)
        self._answer += data
        head, found, body = self._answer.partition(b"\r\n\r\n")
        if found and len(body) == int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]):
            seconds, nanoseconds = struct.unpack("ll", stamp)
            self._whole.set_result(seconds + nanoseconds / 1e9)


async def poll(
    host: str, port: int, num_devices: int, begin: Callable[[], None], is_over: Callable[[], bool]
) -> Polling:
    """Devices enrol, `begin` is called, and each asks for work, again whenever the server told it to, until
    all is over."""
    pollers, asks = [Poller(host, port) for _ in range(num_devices)], list[Ask]()
    for number, poller in enumerate(pollers):
        await poller.open(f"poller-{number}")
    begin()
    started = time.monotonic()
    await asyncio.gather(*(_live(poller, is_over, asks) for poller in pollers))
    seconds = time.monotonic() - started
    for poller in pollers:
        poller.close()
    taken = [ask.sec for ask in asks]
    waits = [ask.sec for ask in asks if not ask.is_given]
    given = [ask.sec for ask in asks if ask.is_given]
    return Polling(
        num_devices=num_devices,
        num_asks=len(asks),
        seconds=seconds,
        p50_ms=_at(taken, 0.5),
        p99_ms=_at(taken, 0.99),
        max_ms=_at(taken, 1.0),
        wait_p50_ms=_at(waits, 0.5),
        wait_p99_ms=_at(waits, 0.99),
        num_given=len(given),
        given_p50_ms=_at(given, 0.5),
        given_p99_ms=_at(given, 0.99),
        seen_p99_ms=_at([ask.seen_sec for ask in asks], 0.99),
    )


def _at(seconds: list[float], share: float) -> float:
    """So large, in milliseconds, are at most this share of them; not a number if there are none."""
    if not seconds:
        return math.nan
    return sorted(seconds)[min(int(share * len(seconds)), len(seconds) - 1)] * 1e3


async def _live(poller: Poller, is_over: Callable[[], bool], asks: list[Ask]) -> None:
    """Asks once at least."""
    await asyncio.sleep(FIRST_ASK_SEC * random.random())
    while True:
        started = time.monotonic()
        work, seconds = await poller.ask()
        answered = time.monotonic()
        asks.append(Ask(seconds, answered - started, work["action"] == "train"))
        next_at = answered + min(float(work.get("retry_after_sec", MAX_PAUSE_SEC)), MAX_PAUSE_SEC)
        while not is_over() and (left_sec := next_at - time.monotonic()) > 0:
            await asyncio.sleep(min(left_sec, CHECK_SEC))
        if is_over():
            return
