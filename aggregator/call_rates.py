"""Middleware that turns away who calls too often: 429 with Retry-After, before anything is looked up."""

import time
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from fedfer.aggregator.keys import sha256_of
from fedfer.aggregator.limits import Limits, rate
from fedfer.aggregator.rate_limits import RateLimiter, address_key, is_loopback, retry_after
from fedfer.aggregator.refusals import refusal

ENROLMENT = ("POST", "/v1/devices")


class CallRates:
    """Counts each call for its address, and for its token (or as an enrolment, which has none)."""

    def __init__(self, app: ASGIApp, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._devices = RateLimiter(rate(limits.device_rate), clock)
        self._addresses = RateLimiter(rate(limits.address_rate), clock)
        self._enrolments = RateLimiter(rate(limits.enrol_rate), clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wait_sec = self._wait_sec(scope) if scope["type"] == "http" else 0.0
        if not wait_sec:
            await self._app(scope, receive, send)
            return
        reason = f"too many calls from this device or address; call again in {wait_sec:.1f} s"
        answer = refusal(429, "too_many_calls", reason, {"Retry-After": retry_after(wait_sec)})
        await answer(scope, receive, send)

    def _wait_sec(self, scope: Scope) -> float:
        host, _ = scope.get("client") or ("", 0)
        is_enrolment = (scope["method"], scope["path"]) == ENROLMENT
        authorization = Headers(scope=scope).get("authorization", "")
        waits_sec = [0.0]
        if not is_loopback(host):
            address = address_key(host)
            waits_sec.append(self._addresses.wait_sec(address))
            if is_enrolment:
                waits_sec.append(self._enrolments.wait_sec(address))
        if authorization and not is_enrolment:  # all devices enrol with one key
            waits_sec.append(self._devices.wait_sec(sha256_of(authorization).hex()))
        return max(waits_sec)
