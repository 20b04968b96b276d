"""A real HTTP server on loopback whose answers a test writes down, faults included; no fedfer server code.

Each (method, path) has a list of answers, given in turn; the last one is given for ever.
"""

import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Answer:
    """`cut_after`: bytes of the body after which the connection is closed; `delay_sec` before the answer.
    With `ranges`, a Range request gets its part as 206 (or 416)."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    delay_sec: float = 0.0
    ranges: bool = False
    reads_body: bool = True


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes


def reply(body: Mapping[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    """An answer in JSON."""
    return Answer(status, json.dumps(body).encode(), headers or {})


def refusal(status: int, code: str, reason: str = "as the test wants it") -> Answer:
    return reply({"error": {"code": code, "reason": reason}}, status)


class ScriptedServer:
    def __init__(self, script: dict[str, list[Answer]]) -> None:
        """`script`: answers by "METHOD /path"."""
        self.requests: list[Request] = []
        self._script = {what: list(answers) for what, answers in script.items()}
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def asked(self, what: str) -> list[Request]:
        """Requests received so far for "METHOD /path"."""
        return [request for request in self.requests if f"{request.method} {request.path}" == what]

    def answer(self, what: str, answers: list[Answer]) -> None:
        """From now on, in place of what was to come."""
        with self._lock:
            self._script[what] = list(answers)

    def _next(self, what: str) -> Answer:
        with self._lock:
            answers = self._script.get(what, [refusal(404, "not_found")])
            return answers.pop(0) if len(answers) > 1 else answers[0]

    def _handler(server) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                path, _, query = self.path.partition("?")
                answer = server._next(f"{self.command} {path}")
                size = int(self.headers.get("Content-Length", 0)) if answer.reads_body else 0
                body = self.rfile.read(size)
                headers = {name.lower(): value for name, value in self.headers.items()}
                server.requests.append(Request(self.command, path, query, headers, body))
                time.sleep(answer.delay_sec)
                send(self, answer)

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = handle_any

            def log_message(self, format: str, *args: object) -> None:
                pass

            def handle(self) -> None:
                try:
                    super().handle()
                except OSError:  # the client went away, as some tests want it to
                    self.close_connection = True

        return Handler

    @contextmanager
    def running(self) -> Iterator["ScriptedServer"]:
        thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            thread.join()
            self._http.server_close()


def send(handler: BaseHTTPRequestHandler, answer: Answer) -> None:
    status, headers, body = answer.status, dict(answer.headers), answer.body
    wanted = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    if answer.ranges and wanted:
        start = int(wanted[1])
        status = 206 if start < len(body) else 416
        headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        body = body[start:]
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    if handler.command == "HEAD":
        return
    handler.wfile.write(body if answer.cut_after is None else body[: answer.cut_after])
    if answer.cut_after is not None or not answer.reads_body:
        handler.close_connection = True


@contextmanager
def serving(script: dict[str, list[Answer]]) -> Iterator[ScriptedServer]:
    """A running server for a script."""
    with ScriptedServer(script).running() as server:
        yield server
