"""A TCP proxy on loopback that cuts connections, as a phone's network does; both ends see it."""

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class CuttingProxy:
    """The n-th connection is cut once `budgets[n]` bytes went to the server; the last budget is for all that
    follow, None is no end. `sent` are the bytes that went to the server by each connection."""

    server: tuple[str, int]
    budgets: list[int | None]
    sent: list[int] = field(default_factory=list)
    cuts: int = 0

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads: list[threading.Thread] = []

    @contextmanager
    def running(self) -> Iterator["CuttingProxy"]:
        accepting = threading.Thread(target=self._accept)
        accepting.start()
        try:
            yield self
        finally:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            accepting.join()
            for thread in self._threads:
                thread.join()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.sent.append(0)
                thread = threading.Thread(target=self._carry, args=(client, len(self.sent) - 1))
                self._threads.append(thread)
                thread.start()

    def _carry(self, client: socket.socket, number: int) -> None:
        budget = self.budgets[min(number, len(self.budgets) - 1)]
        with client, socket.create_connection(self.server) as server, suppress(ConnectionError):
            while True:
                ready, _, _ = select.select([client, server], [], [], 30)
                for source, sink in ((client, server), (server, client)):
                    if source not in ready:
                        continue
                    left = None if budget is None else budget - self.sent[number]
                    data = source.recv(4096 if left is None or source is server else min(4096, left))
                    if not data:
                        return
                    sink.sendall(data)
                    if source is client:
                        self.sent[number] += len(data)
                        if self.sent[number] == budget:
                            self.cuts += 1
                            return
                if not ready:
                    return
