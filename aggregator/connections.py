"""HTTP connections that cannot be held open for nothing: uvicorn's own, with two clocks and a counter.

uvicorn waits for ever for a request that does not come whole, and for a client that does not read its
answer; either way a few thousand sockets would shut everybody else out. So would one address that opens
them all. Bodies have limits of their own (`body_limits`, `uploads`).

And with a shorter way for the body of an upload: uvicorn and h11 copy each byte of it five times.
"""

import asyncio
import resource
import sys
from collections import Counter
from collections.abc import Callable
from typing import ClassVar

import h11
from h11._readers import ContentLengthReader
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from fedfer.aggregator.body_limits import MAX_HEAD_BYTES
from fedfer.aggregator.rate_limits import address_key
from fedfer.aggregator.refusals import refusal

HEAD_SEC = 30.0  # for a request's line and headers, from the connection or the first byte after an answer
READ_SEC = 60.0  # for a client to read the piece of an answer that waits for it
FILES_KEPT_FREE = 256  # of those that the process may open: database, weights, uploads, logs
MANY_FILES = 65_536


class ConnectionCounter:
    """How many connections there are, from each address and in all. `is_exempt`: addresses whose
    connections count only in all, such as a proxy's, which carry many callers."""

    def __init__(self, per_address: int, in_all: int, is_exempt: Callable[[str], bool]) -> None:
        self._per_address, self._in_all, self._is_exempt = per_address, in_all, is_exempt
        self._open = Counter[str]()

    def enter(self, host: str) -> bool:
        """Whether there is room for one more from this address; if so it is counted until `leave`."""
        address = address_key(host)
        if self._open.total() >= self._in_all:
            return False
        if self._open[address] >= self._per_address and not self._is_exempt(host):
            return False
        self._open[address] += 1
        return True

    def leave(self, host: str) -> None:
        address = address_key(host)
        self._open[address] -= 1
        if self._open[address] <= 0:
            del self._open[address]


def raise_open_files() -> int:
    """Lets this process open as many files as it may, within reason; returns how many sockets that leaves."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, MANY_FILES)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(16, wanted - FILES_KEPT_FREE)


class PatientH11(H11Protocol):
    """Drops a connection whose next request does not come within `head_sec` or whose answer is not read,
    and one for which `counter` has no room."""

    head_sec = HEAD_SEC
    read_sec = READ_SEC
    counter: ClassVar[ConnectionCounter | None] = None
    _counted_host: str | None = None
    _head_timer: asyncio.TimerHandle | None = None
    _read_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        host = self.client[0] if self.client else ""
        if self.counter is not None:
            if not self.counter.enter(host):
                transport.abort()
                return
            self._counted_host = host
        self._head_timer = self.loop.call_later(self.head_sec, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        self._stop_read_timer()
        if self.counter is not None and self._counted_host is not None:
            self.counter.leave(self._counted_host)
            self._counted_host = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._pass_on(data):
            super().data_received(data)
        if self._is_answering():
            self._stop_head_timer()
        elif self._head_timer is None and not self.transport.is_closing():
            self._head_timer = self.loop.call_later(self.head_sec, self.transport.abort)

    def _pass_on(self, data: bytes) -> bool:
        """Hands bytes that can only be a body's, and not its last, to who reads it, and tells h11 that they
        came. False if h11 has to look at them."""
        conn, cycle = self.conn, self.cycle
        reader = conn._reader
        if not (
            isinstance(reader, ContentLengthReader)
            and reader._remaining > len(data)
            and conn.their_state is h11.SEND_BODY
            and conn.our_state in (h11.SEND_RESPONSE, h11.SEND_BODY)
            and not conn.they_are_waiting_for_100_continue
            and not conn._receive_buffer
        ):
            return False
        reader._remaining -= len(data)
        body = cycle.body + data if cycle.body else data
        cycle.body = body  # type: ignore[assignment]  # bytes, of which `receive` makes no copy
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()
        return True

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stop_read_timer()
        self._read_timer = self.loop.call_later(self.read_sec, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_read_timer()

    def send_400_response(self, msg: str) -> None:
        """What h11 cannot read gets a refusal in the form of all others; its own is plain text."""
        error = sys.exception()
        too_long = isinstance(error, h11.RemoteProtocolError) and error.error_status_hint == 431
        answer = (
            refusal(431, "head_too_large", f"expected a request line and headers of {MAX_HEAD_BYTES} bytes")
            if too_long
            else refusal(400, "bad_request", "expected a request of HTTP/1.1 (RFC 9112)")
        )
        headers = [*answer.raw_headers, (b"connection", b"close")]
        events = (
            h11.Response(status_code=answer.status_code, headers=headers),
            h11.Data(data=bytes(answer.body)),
            h11.EndOfMessage(),
        )
        self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        self.transport.close()

    def _is_answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request
        return cycle is not None and not cycle.response_complete

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_read_timer(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None


def counted(counter: ConnectionCounter) -> type[PatientH11]:
    """The class of connections for one server, which share its counter."""
    return type("CountedH11", (PatientH11,), {"counter": counter})
