"""Uploads that go wrong, performed for real: each makes its calls to the aggregator and says what came of it.

Bytes that should not be taken are sent whole, as a device sends them that knows no better.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import httpx
import numpy as np
from safetensors.numpy import load_file

from fedfer.android_stub.client import AggregatorClient
from fedfer.android_stub.connection import Connection, TransientError
from fedfer.android_stub.fields import Fields
from fedfer.android_stub.replies import Receipt, parse_receipt
from fedfer.android_stub.upload import PIECE_BYTES, Sending, Update
from fedfer.export.checkpoint import Weights, checkpoint_bytes, digest_of
from fedfer.export.contract import Contract
from fedfer.model.errors import FedferError, RefusedError


class CutSending(Sending):
    """An upload whose first attempt ends, with its connection, after so many bytes of the body."""

    def __init__(self, connection: Connection, place: str, update: Update, cut_bytes: int) -> None:
        super().__init__(connection, place, update)
        self._cut_bytes = cut_bytes

    def first_attempt(self) -> None:
        """Returns once the connection is cut. Raises RefusedError when the server answers before."""
        self._tried = True
        headers = {**self.whole_headers(), "Content-Length": str(self._num_bytes)}
        with self._update.path.open("rb") as file:
            body = _cut(file, self._cut_bytes)
            try:
                self._connection.attempt(
                    "PUT", self._place, params=self._update.query, headers=headers, content=body
                )
            except TransientError:
                return
        raise FedferError("an upload that was cut off was answered with a receipt", code="bad_reply")


def _cut(file: BinaryIO, num_bytes: int) -> Iterator[bytes]:
    """The first bytes of a file, then the end of the network."""
    while num_bytes > 0 and (piece := file.read(min(PIECE_BYTES, num_bytes))):
        num_bytes -= len(piece)
        yield piece
    raise httpx.WriteError("cut off")


def upload_cut(
    client: AggregatorClient,
    run: str,
    round_number: int,
    update: Update,
    share: float,
    meanwhile: Callable[[], None] = lambda: None,
) -> Receipt:
    """Sends a share (0..1) of the bytes, loses the connection, lets happen what does `meanwhile`, and goes on
    from what the server has. Raises RefusedError, ServerUnreachableError."""
    num_bytes = update.path.stat().st_size
    place = f"/v1/runs/{run}/rounds/{round_number}/update"
    cut_bytes = min(max(1, round(share * num_bytes)), num_bytes - 1)
    sending = CutSending(client.connection, place, update, cut_bytes)
    sending.first_attempt()
    meanwhile()
    reply: Fields = client.connection.retry(f"PUT {place}", sending.attempt)
    return parse_receipt(reply)


def upload_again(
    client: AggregatorClient, run: str, round_number: int, update: Update, receipt: Receipt
) -> None:
    """Sends an update once more for which there is a receipt. Raises FedferError for another receipt, and
    RefusedError."""
    second = client.upload_update(run, round_number, update)
    if second != receipt:
        raise FedferError(f"two receipts for one update: {receipt} and {second}", code="bad_reply")


def refusal_of(client: AggregatorClient, run: str, round_number: int, update: Update) -> str:
    """The code with which the server turns this update away. Raises FedferError if it takes it."""
    try:
        client.upload_update(run, round_number, update)
    except RefusedError as error:
        return error.code
    raise FedferError("the server took an update that it should have refused", code="bad_reply")


def stale(update: Update) -> Update:
    """The same update, as if another version had been trained."""
    return replace(update, base_weights=hashlib.sha256(update.base_weights.encode()).hexdigest())


def of_another_model(update: Update, contract: Contract, path: Path) -> Update:
    """The same tensors, written to `path` as a checkpoint of another model."""
    other = replace(contract, model_name=f"{contract.model_name}-of-another-release")
    return _rewritten(update, _tensors(update), other, path)


def with_nan(update: Update, contract: Contract, path: Path) -> Update:
    """The same update with NaN in the middle of every tensor, written to `path`."""
    weights = _tensors(update)
    for tensor in weights.values():
        tensor.reshape(-1)[tensor.size // 2] = np.nan
    return _rewritten(update, weights, contract, path)


def _tensors(update: Update) -> Weights:
    """Unchecked: an attacker's update, or one of a training that diverged, may hold NaN of its own."""
    return dict(load_file(update.path))


def _rewritten(update: Update, weights: Weights, contract: Contract, path: Path) -> Update:
    data = checkpoint_bytes(weights, contract)
    path.write_bytes(data)
    return replace(update, path=path, sha256=digest_of(data))
