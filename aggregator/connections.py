"""HTTP connections that cannot be held open for nothing: uvicorn's own, with two clocks.

uvicorn waits for ever for a request that does not come whole, and for a client that does not read its
answer; either way a few thousand sockets would shut everybody else out. Bodies have limits of their own
(`body_limits`, `uploads`).
"""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

HEAD_SEC = 30.0  # for a request's line and headers, from the connection or the first byte after an answer
READ_SEC = 60.0  # for a client to read the piece of an answer that waits for it


class PatientH11(H11Protocol):
    """Drops a connection whose next request does not come within `head_sec` or whose answer is not read."""

    head_sec = HEAD_SEC
    read_sec = READ_SEC
    _head_timer: asyncio.TimerHandle | None = None
    _read_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(self.head_sec, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        self._stop_read_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_answering():
            self._stop_head_timer()
        elif self._head_timer is None and not self.transport.is_closing():
            self._head_timer = self.loop.call_later(self.head_sec, self.transport.abort)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stop_read_timer()
        self._read_timer = self.loop.call_later(self.read_sec, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_read_timer()

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
