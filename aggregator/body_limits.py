"""Middleware that bounds what a request's head and body can cost.

Bodies of all calls but uploads (PUT and PATCH) are small, and JSON: they are read whole, up to
MAX_SMALL_BODY_BYTES, before the application sees them. When a request is refused before its body was
read, what is on its way is read and thrown away up to a limit, so that a client that sends first and reads
later gets its answer; beyond that the connection is closed.
"""

import asyncio
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fedfer.aggregator.refusals import refusal

MAX_HEAD_BYTES = 16 * 1024  # of a request's line and headers
MAX_SMALL_BODY_BYTES = 64 * 1024
SMALL_BODY_SEC = 30.0
DRAIN_SEC = 10.0
TIMED_OUT = 408  # nothing was on its way any more
UPLOADS = ("PUT", "PATCH")
JSON = "application/json"


class BodyLimits:
    """`max_upload_bytes()` is what a refused upload may still send."""

    def __init__(self, app: ASGIApp, max_upload_bytes: Callable[[], int]) -> None:
        self._app, self._max_upload_bytes = app, max_upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(scope, receive, send, self._max_upload_bytes())
        refused = _refused_head(scope)
        if refused is not None:
            await refused(scope, body.receive, body.send)
        elif scope["method"] in UPLOADS:
            await self._app(scope, body.receive, body.send)
        else:
            await self._small(scope, body)

    async def _small(self, scope: Scope, body: "_Body") -> None:
        try:
            content = await body.read_small()
        except ClientDisconnect:  # what came of the request is not to be taken for the whole
            return
        if isinstance(content, JSONResponse):
            await content(scope, body.receive, body.send)
            return
        given = Headers(scope=scope).get("content-type", "")
        if content and not is_json(given):
            reason = f"a body of type {given[:80]!a}; expected {JSON}"
            await refusal(415, "wrong_content_type", reason)(scope, body.receive, body.send)
            return
        messages = iter([{"type": "http.request", "body": content, "more_body": False}])

        async def replay() -> Message:
            return next(messages, None) or await body.receive()

        await self._app(scope, replay, body.send)


def is_json(content_type: str) -> bool:
    """Whether it is application/json, in UTF-8 if it says more."""
    kind, _, parameters = content_type.lower().partition(";")
    return kind.strip() == JSON and parameters.strip() in ("", "charset=utf-8", 'charset="utf-8"')


def _refused_head(scope: Scope) -> JSONResponse | None:
    """The answer to a head that is too long, or whose body comes encoded."""
    num_bytes = sum(len(name) + len(value) for name, value in scope["headers"])
    if num_bytes + len(scope["query_string"]) + len(scope["path"]) > MAX_HEAD_BYTES:
        return refusal(431, "head_too_large", f"expected at most {MAX_HEAD_BYTES} bytes before the body")
    encoding = Headers(scope=scope).get("content-encoding", "identity")
    if encoding.strip().lower() != "identity":
        return refusal(415, "wrong_content_type", f"a body in {encoding[:80]!a}; expected it unencoded")
    return None


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

    async def read_small(self) -> bytes | JSONResponse:
        """The whole body, or what to answer if it is too large or does not come. Raises ClientDisconnect."""
        content = bytearray()
        try:
            async with asyncio.timeout(SMALL_BODY_SEC):
                while not self._ended:
                    message = await self.receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnect
                    content += message.get("body", b"")
                    if len(content) > MAX_SMALL_BODY_BYTES:
                        reason = f"expected a body of at most {MAX_SMALL_BODY_BYTES} bytes"
                        return refusal(413, "too_large", reason)
        except TimeoutError:
            return refusal(TIMED_OUT, "timed_out", f"the body did not come within {SMALL_BODY_SEC:.0f} s")
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
