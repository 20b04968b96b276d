"""Middleware that counts requests: time, status, bytes, and the code of a refusal, by the call's template.

Uploads of a checkpoint are counted by their run and what became of them. A label never holds what a client
made up: paths that no call has are one `unknown`, methods are those of the protocol.
"""

import json
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fedfer.aggregator.metrics import ACCEPTED, Metrics

UNKNOWN = "unknown"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
UPDATE_SUFFIX = "/update"
MAX_REFUSAL_BYTES = 8192


class RequestMetrics:
    """The outermost middleware. `has_run` says whether a run of this name exists."""

    def __init__(self, app: ASGIApp, metrics: Metrics, has_run: Callable[[str], bool]) -> None:
        self._app, self._metrics, self._has_run = app, metrics, has_run

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        watched = _Watched(receive, send)
        started = time.monotonic()
        try:
            await self._app(scope, watched.receive, watched.send)
        finally:
            self._count(scope, watched, time.monotonic() - started)

    def _count(self, scope: Scope, watched: "_Watched", seconds: float) -> None:
        route = getattr(scope.get("route"), "path", UNKNOWN)
        method = scope["method"] if scope["method"] in METHODS else UNKNOWN
        self._metrics.request(route, method, watched.status, seconds)
        self._metrics.transferred(route, watched.received_bytes, watched.sent_bytes)
        code = watched.code
        if code is not None:
            self._metrics.refused(route, code)
        if method == "PUT" and route.endswith(UPDATE_SUFFIX):
            name = str(scope.get("path_params", {}).get("run", ""))
            run = name if self._has_run(name) else UNKNOWN
            self._metrics.update(run, code or (ACCEPTED if watched.status == 200 else UNKNOWN))


class _Watched:
    """One request's messages; `status` 499 is a client that left before its answer."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self.status, self.received_bytes, self.sent_bytes = 499, 0, 0
        self._refusal: bytes | None = None

    async def receive(self) -> Message:
        message = await self._receive()
        self.received_bytes += len(message.get("body", b""))
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["type"] == "http.response.body":
            body = message.get("body", b"")
            self.sent_bytes += len(body)
            if self.status >= 400 and self._refusal is None:
                self._refusal = bytes(body[:MAX_REFUSAL_BYTES])
        await self._send(message)

    @property
    def code(self) -> str | None:
        """The code in the one form that refusals have (`refusals.refusal`), None for other answers."""
        if self._refusal is None:
            return None
        try:
            return str(json.loads(self._refusal)["error"]["code"])
        except (ValueError, KeyError, TypeError):
            return UNKNOWN
