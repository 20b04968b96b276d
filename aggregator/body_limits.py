"""Middleware that bounds what a request's body can cost.

Bodies of all calls but uploads are small: they are read whole, up to MAX_SMALL_BODY_BYTES, before the
application sees them. When a request is refused before its body was read, what is on its way is read and
thrown away up to a limit, so that a client that sends first and reads later gets its answer; beyond that
the connection is closed.
"""

import asyncio

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fedfer.aggregator.refusals import refusal

MAX_SMALL_BODY_BYTES = 64 * 1024
SMALL_BODY_SEC = 30.0
DRAIN_SEC = 10.0
TIMED_OUT = 408  # nothing was on its way any more


class BodyLimits:
    """`max_upload_bytes` is what a refused upload may still send."""

    def __init__(self, app: ASGIApp, max_upload_bytes: int) -> None:
        self._app, self._max_upload_bytes = app, max_upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(scope, receive, send, self._max_upload_bytes)
        if scope["method"] == "PUT":
            await self._app(scope, body.receive, body.send)
        else:
            await self._small(scope, body)

    async def _small(self, scope: Scope, body: "_Body") -> None:
        try:
            content = await body.read_small()
        except ClientDisconnect:  # what came of the request is not to be taken for the whole
            return
        if content is None:
            reason = f"expected a body of at most {MAX_SMALL_BODY_BYTES} bytes, sent without long pauses"
            await refusal(413, "too_large", reason)(scope, body.receive, body.send)
            return
        messages = iter([{"type": "http.request", "body": content, "more_body": False}])

        async def replay() -> Message:
            return next(messages, None) or await body.receive()

        await self._app(scope, replay, body.send)


class _Body:
    """One request's body: counts what was read and drains the rest when the answer is a refusal."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, max_drain_bytes: int) -> None:
        self._receive, self._send, self._max_drain_bytes = receive, send, max_drain_bytes
        self._ended = False
        headers = dict(scope["headers"])
        self._expects_continue = headers.get(b"expect", b"").lower() == b"100-continue"
        self._read_bytes = 0

    async def receive(self) -> Message:
        message = await self._receive()
        self._read_bytes += len(message.get("body", b""))
        self._ended = message["type"] == "http.disconnect" or not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] >= 400 and not self._ended:
            if message["status"] != TIMED_OUT:
                await self._drain()
            if not self._ended:
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
        await self._send(message)

    async def read_small(self) -> bytes | None:
        """The whole body, None if it is larger than allowed or does not come. Raises ClientDisconnect."""
        content = bytearray()
        try:
            async with asyncio.timeout(SMALL_BODY_SEC):
                while not self._ended:
                    message = await self.receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnect
                    content += message.get("body", b"")
                    if len(content) > MAX_SMALL_BODY_BYTES:
                        return None
        except TimeoutError:
            return None
        return bytes(content)

    async def _drain(self) -> None:
        if self._expects_continue and not self._read_bytes:
            return  # the client holds its body back until it is asked for
        try:
            async with asyncio.timeout(DRAIN_SEC):
                while not self._ended and self._read_bytes <= self._max_drain_bytes:
                    await self.receive()
        except TimeoutError:
            pass
