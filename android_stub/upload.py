"""Sending an update: in one piece, and after it was cut off only what is missing (docs/protocol.md).

The server keeps what came of an upload that says its sha256. So every attempt after the first, by
whichever process, asks how much that is, sends the rest, and hands in.
"""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import httpx

from fedfer.android_stub.backoff import Backoff
from fedfer.android_stub.connection import Connection, TransientError
from fedfer.android_stub.fields import Fields, bad_reply
from fedfer.model.errors import RefusedError

PIECE_BYTES = 1 << 16
OFFSET = "Upload-Offset"
MAX_OFFSET_DIGITS = 18
OCTETS = {"Content-Type": "application/octet-stream"}
# Somebody else's request for the same upload came between; what is there has to be asked for again.
_MOVED = ("wrong_offset", "taken_over")
# Nothing is there that could be handed in.
_LOST = ("unknown_upload", "bad_digest")


@dataclass(frozen=True)
class Update:
    """A trained checkpoint in a file, and what the server has to know about it. `is_begun`: an earlier
    process may have sent some of it, or all."""

    path: Path
    sha256: str
    base_weights: str
    num_examples: int
    loss: float
    accuracy: float
    train_sec: float
    is_begun: bool = False

    @property
    def query(self) -> dict[str, str]:
        return {
            "base_weights": self.base_weights,
            "num_examples": str(self.num_examples),
            "loss": repr(self.loss),
            "accuracy": repr(self.accuracy),
            "train_sec": f"{self.train_sec:.3f}",
        }


class Sending:
    """One update on its way to one place; `attempt` is what `Connection.retry` repeats."""

    def __init__(self, connection: Connection, place: str, update: Update) -> None:
        """`place`: the path of the PUT."""
        self._connection, self._place, self._update = connection, place, update
        self._num_bytes = update.path.stat().st_size
        self._tried = update.is_begun
        self._furthest = 0

    def attempt(self, backoff: Backoff) -> Fields:
        """The receipt. Raises TransientError, RefusedError."""
        first, self._tried = not self._tried, True
        there = None if first else self._offset()
        if there is None:
            return self._whole()
        if there > self._furthest:
            self._furthest = there
            backoff.made_progress()
        if 0 < there < self._num_bytes:
            self._append(there)
        try:
            return self._hand_in()
        except RefusedError as error:
            if error.code in _LOST:
                return self._whole()
            raise

    def whole_headers(self) -> dict[str, str]:
        """Of a request with the whole body."""
        digest = base64.b64encode(bytes.fromhex(self._update.sha256)).decode()
        return {**OCTETS, "Content-Digest": f"sha-256=:{digest}:"}

    def _whole(self) -> Fields:
        headers = self.whole_headers()
        with self._update.path.open("rb") as file:  # httpx takes Content-Length from the file
            try:
                return self._connection.attempt(
                    "PUT", self._place, params=self._update.query, headers=headers, content=file
                )
            finally:
                self._connection.sent_bytes += file.tell()

    def _hand_in(self) -> Fields:
        query = {**self._update.query, "upload": self._update.sha256}
        return self._connection.attempt("PUT", self._place, params=query, headers=OCTETS, content=b"")

    def _offset(self) -> int | None:
        """How many bytes came, None if the server does not know such uploads."""
        try:
            headers = self._connection.headers("HEAD", self._path)
        except RefusedError as error:
            if error.status in (httpx.codes.NOT_FOUND, httpx.codes.METHOD_NOT_ALLOWED):
                return None
            return 0  # an answer to HEAD has no words: the hand-in will be refused with them
        return read_offset(headers.get(OFFSET, ""))

    def _append(self, there: int) -> None:
        headers = {**OCTETS, OFFSET: str(there), "Content-Length": str(self._num_bytes - there)}
        with self._update.path.open("rb") as file:
            file.seek(there)
            try:
                self._connection.headers("PATCH", self._path, headers=headers, content=_pieces(file))
            except RefusedError as error:
                if error.code in _MOVED:
                    raise TransientError(str(error)) from None
                raise
            finally:
                self._connection.sent_bytes += file.tell() - there

    @property
    def _path(self) -> str:
        return f"/v1/uploads/{self._update.sha256}"


def read_offset(text: str) -> int:
    """The value of Upload-Offset. Raises RefusedError (bad_reply)."""
    if text.isascii() and text.isdigit() and len(text) <= MAX_OFFSET_DIGITS:
        return int(text)
    raise bad_reply(f"{OFFSET} is not a number of bytes", httpx.codes.NO_CONTENT)


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(PIECE_BYTES):
        yield piece
