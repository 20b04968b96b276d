"""HTTP with one aggregator: bounded answers, refusals as errors, and patience.

Connection errors, timeouts, 5xx, 408 and 429 are tried again with growing pauses until the policy gives up
(ServerUnreachableError); any other answer than 2xx raises RefusedError with the server's code and reason.
"""

import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import httpx

from fedfer.android_stub.backoff import Backoff, RetryPolicy, parse_retry_after
from fedfer.android_stub.fields import Fields, bad_reply
from fedfer.model.errors import RefusedError, UsageError

T = TypeVar("T")
CONNECT_TIMEOUT_SEC = 10.0
READ_TIMEOUT_SEC = 60.0
MAX_REPLY_BYTES = 4 * 2**20
MAX_REFUSAL_BYTES = 64 * 2**10
MAX_REASON_CHARS = 500
# Answers that say nothing against the request itself: its body came too slowly, or too many came.
TRANSIENT_STATUSES = (httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS)


@dataclass(frozen=True)
class Retrying:
    """How a call is repeated: the policy, and what it needs from outside."""

    policy: RetryPolicy
    rng: Random
    clock: Callable[[], float]
    sleep: Callable[[float], None]
    on_pause: Callable[[str], None]  # told in words what failed and how long the pause is


class TransientError(Exception):
    """One attempt failed in a way that the next may not."""

    def __init__(self, message: str, retry_after_sec: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_sec = retry_after_sec


def check_url(url: str) -> httpx.URL:
    """Raises UsageError unless it is the URL of a server."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise UsageError(f"{url!r} is not a URL ({error}); expected http://HOST:PORT") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise UsageError(f"{url!r} is not the URL of a server; expected http://HOST:PORT")
    return parsed


def open_http(
    url: str, *, read_timeout_sec: float = READ_TIMEOUT_SEC, ca_file: Path | None = None
) -> httpx.Client:
    """Connections to one server, shared by all devices of a process; over TLS with the certificates of
    `ca_file` trusted instead of the system's. Raises UsageError for a bad URL or file."""
    parsed = check_url(url)
    is_loopback = parsed.host in ("127.0.0.1", "localhost", "::1")
    return httpx.Client(
        base_url=parsed,
        verify=True if ca_file is None else trusting(ca_file),
        timeout=httpx.Timeout(READ_TIMEOUT_SEC, read=read_timeout_sec, connect=CONNECT_TIMEOUT_SEC),
        headers={"Accept-Encoding": "identity"},  # weights do not compress, and sizes stay checkable
        trust_env=not is_loopback,  # a proxy cannot reach this machine's own loopback
    )


def trusting(ca_file: Path) -> ssl.SSLContext:
    """TLS that takes servers whose certificate one in the file (PEM) vouches for. Raises UsageError."""
    try:
        return ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError:
        raise UsageError(f"{ca_file} holds no certificate in PEM") from None
    except OSError as error:
        raise UsageError(f"cannot read {ca_file}: {error.strerror}") from None


class Connection:
    """One device's requests, over an `httpx.Client` that others may share. Counts body bytes."""

    def __init__(self, http: httpx.Client, retrying: Retrying) -> None:
        self._http = http
        self._retrying = retrying
        self.token: str | None = None
        self.received_bytes = 0
        self.sent_bytes = 0

    def retry(self, what: str, attempt: Callable[[Backoff], T]) -> T:
        """`attempt` until it works; `what` names it. Raises RefusedError, ServerUnreachableError."""
        how = self._retrying
        backoff = Backoff(how.policy, how.rng, how.clock)
        what = f"{what} at {str(self._http.base_url).rstrip('/')}"
        while True:
            try:
                return attempt(backoff)
            except TransientError as failure:
                pause_sec = backoff.next_pause_sec(what, str(failure), failure.retry_after_sec)
                how.on_pause(f"{what} failed ({failure}); trying again in {pause_sec:.1f} s")
            how.sleep(pause_sec)

    def call(self, method: str, path: str, **request: Any) -> Fields:
        """A request with a JSON answer, retried; `request` goes to httpx."""
        return self.retry(f"{method} {path}", lambda _: self.attempt(method, path, **request))

    def attempt(self, method: str, path: str, **request: Any) -> Fields:
        """One attempt at a request with a JSON answer. Raises TransientError, RefusedError."""
        with self.exchange(method, path, **request) as response:
            body = self._read(response, MAX_REPLY_BYTES)
            if len(body) > MAX_REPLY_BYTES:
                raise bad_reply(f"longer than {MAX_REPLY_BYTES} bytes", response.status_code)
            return Fields(body, response.status_code)

    def headers(self, method: str, path: str, **request: Any) -> httpx.Headers:
        """One attempt at a request answered by headers alone. Raises TransientError, RefusedError."""
        with self.exchange(method, path, **request) as response:
            self._read(response, MAX_REPLY_BYTES)
            return response.headers

    @contextmanager
    def exchange(
        self, method: str, path: str, headers: dict[str, str] | None = None, **request: Any
    ) -> Iterator[httpx.Response]:
        """One request answered with 2xx, its body unread. Raises TransientError, RefusedError."""
        sent = dict(headers or {})
        if self.token is not None:
            sent["Authorization"] = f"Bearer {self.token}"
        try:
            with self._http.stream(method, path, headers=sent, **request) as response:
                if not response.is_success:
                    raise self._refusal(response)
                yield response
        except httpx.TransportError as error:
            words = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise TransientError(words) from None

    def _refusal(self, response: httpx.Response) -> Exception:
        """What an answer other than 2xx means."""
        status = response.status_code
        if status >= 500 or status in TRANSIENT_STATUSES:
            wait_sec = parse_retry_after(response.headers.get("Retry-After"), datetime.now(UTC))
            return TransientError(f"HTTP {status}", wait_sec)
        code, reason = read_refusal(self._read(response, MAX_REFUSAL_BYTES), status)
        return RefusedError(f"the server refused (HTTP {status} {code}): {reason}", code=code, status=status)

    def _read(self, response: httpx.Response, max_bytes: int) -> bytes:
        """The body, or a little more than `max_bytes` of it."""
        body = bytearray()
        for chunk in response.iter_raw():
            self.received_bytes += len(chunk)
            body += chunk
            if len(body) > max_bytes:
                break
        return bytes(body)


def read_refusal(body: bytes, status: int) -> tuple[str, str]:
    """Code and reason of a refusal; for any other body (a proxy's page) `bad_reply`.

    Both come from outside and go to a terminal: control characters become spaces.
    """
    try:
        error = Fields(body, status).object("error")
        code, reason = error.word("code"), error.text("reason")
    except RefusedError:
        return "bad_reply", "an answer that is not a fedfer aggregator's"
    return code, "".join(char if char.isprintable() else " " for char in reason[:MAX_REASON_CHARS])
