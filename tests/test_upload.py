"""A device sends only what is missing after its connection was cut: a server behind a proxy that cuts."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest
from client_helpers import PausedClient, paused_client
from cutting_proxy import CuttingProxy
from exported import export_wide
from prepared import in_tensorflow
from scripted_server import Answer, refusal, reply
from scripted_server import serving as scripted
from server_helpers import Server, serving, start, synthetic_update
from waiting import wait_for

from fedfer.android_stub.backoff import RetryPolicy
from fedfer.android_stub.cache import Cache
from fedfer.android_stub.client import AggregatorClient
from fedfer.android_stub.connection import Connection, Retrying, open_http
from fedfer.android_stub.replies import Receipt, Train
from fedfer.android_stub.upload import Update, read_offset
from fedfer.export.contract import read_contract
from fedfer.model.errors import RefusedError, ServerUnreachableError

HEADS_BYTES = 10_000  # more than the requests' lines and headers of one upload, all attempts together
LOST_BYTES = 2**18  # at a cut: what the server had read and not yet been asked for, and a read of the proxy's
Connect = Callable[[str], PausedClient]


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Connect]:
    with ExitStack() as opened:

        def make(url: str) -> PausedClient:
            paused = paused_client(url, tmp_path / "cache", give_up_sec=30)
            opened.enter_context(paused.http)
            return paused

        yield make


@pytest.fixture(scope="module")
def wide_tflite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose checkpoint is larger than the buffers on its way."""
    path = tmp_path_factory.mktemp("model") / "wide.tflite"
    in_tensorflow(export_wide, path)
    return path


class Upload:
    """A phone that joined over a direct connection and uploads through a proxy that cuts."""

    def __init__(self, server: Server, connect: Connect, model: Path, directory: Path) -> None:
        self.server = server
        direct = connect(server.url)
        direct.client.enrol("phone")
        work = direct.client.ask_for_work()
        assert isinstance(work, Train)
        self.work, self.token = work, direct.client.connection.token
        self.body = synthetic_update(read_contract(model), 1)
        self.update = update_of(self.body, work.weights, directory)

    @property
    def kept(self) -> Path | None:
        """Where the server keeps what came."""
        name = f"partial/*/{self.update.sha256}"
        return next(self.server.log.with_suffix("").glob(name), None)

    def through(self, proxy: CuttingProxy, directory: Path, give_up_sec: float = 60) -> Receipt:
        """Sends it; instead of pausing waits until the server has written what the proxy let through."""

        def pause(_: float) -> None:
            least = sum(proxy.sent) - HEADS_BYTES - LOST_BYTES * proxy.cuts
            wait_for(lambda: least <= (self.kept.stat().st_size if self.kept else 0))

        moments = count()
        policy = RetryPolicy(give_up_sec=give_up_sec)
        retrying = Retrying(policy, Random(0), lambda: float(next(moments)), pause, lambda _: None)
        with open_http(proxy.url) as http:
            connection = Connection(http, retrying)
            connection.token = self.token
            client = AggregatorClient(connection, Cache(directory / "cache"))
            return client.upload_update(self.work.run, self.work.round, self.update)


def update_of(body: bytes, base_weights: str, directory: Path) -> Update:
    path = directory / "update"
    path.write_bytes(body)
    return Update(path, hashlib.sha256(body).hexdigest(), base_weights, 5, 1.5, 0.25, 2.0)


def test_what_came_before_the_cut_is_not_sent_again(
    wide_tflite: Path, connect: Connect, tmp_path: Path
) -> None:
    """4.7 MB through a network that is cut after 2 MB, and after another."""
    with serving(wide_tflite, tmp_path / "data", "--clients", "2") as server:
        upload = Upload(server, connect, wide_tflite, tmp_path)
        with CuttingProxy(("127.0.0.1", server.port), [2_000_000, 1_000_000, None]).running() as proxy:
            receipt = upload.through(proxy, tmp_path)
        assert (receipt.update, receipt.received_bytes) == (upload.update.sha256, len(upload.body))
        assert upload.kept is None
    assert proxy.sent[:2] == [2_000_000, 1_000_000]
    assert len(upload.body) < sum(proxy.sent) < len(upload.body) + HEADS_BYTES + 2 * LOST_BYTES


def test_the_server_is_killed_in_between(wide_tflite: Path, connect: Connect, tmp_path: Path) -> None:
    server = start(wide_tflite, tmp_path / "data", "--clients", "2")
    upload = Upload(server, connect, wide_tflite, tmp_path)
    cutting = CuttingProxy(("127.0.0.1", server.port), [3_000_000, 1])  # after 3 MB nothing gets through
    with cutting.running() as proxy, pytest.raises(ServerUnreachableError):
        upload.through(proxy, tmp_path, give_up_sec=5)
    server.kill()
    assert upload.kept is not None
    with serving(wide_tflite, tmp_path / "data", "--clients", "2") as again:
        cutting = CuttingProxy(("127.0.0.1", again.port), [1, None])
        with cutting.running() as proxy:
            assert upload.through(proxy, tmp_path).update == upload.update.sha256
    assert sum(proxy.sent) < len(upload.body) - 3_000_000 + HEADS_BYTES + LOST_BYTES


# --- what other servers answer


RECEIPT: dict[str, Any] = {"run": "default", "round": 3, "num_examples": 5}
PUT = "PUT /v1/runs/default/rounds/3/update"


def attempts(connect: Connect, tmp_path: Path, body: bytes, *answers: Answer, **others: Answer) -> list[str]:
    """Methods and bodies' lengths of the requests that an upload makes, its PUTs answered so."""
    update = update_of(body, "c" * 64, tmp_path)
    name = f"/v1/uploads/{update.sha256}"
    done = reply({**RECEIPT, "update": update.sha256, "received_bytes": len(body)})
    script = {PUT: [*answers, done], **{f"{method} {name}": [answer] for method, answer in others.items()}}
    with scripted(script) as server:
        client = connect(server.url).client
        client.connection.token = "secret"
        assert client.upload_update("default", 3, update).update == update.sha256
        return [f"{request.method} {len(request.body)}" for request in server.requests]


def at(offset: object) -> Answer:
    return Answer(204, b"", {"Upload-Offset": str(offset)})


BUSY = Answer(503, b"")


def test_a_server_without_such_uploads_gets_all_of_it_again(connect: Connect, tmp_path: Path) -> None:
    assert attempts(connect, tmp_path, b"x" * 100, BUSY) == ["PUT 100", "HEAD 0", "PUT 100"]


def test_the_rest_is_sent_and_handed_in(connect: Connect, tmp_path: Path) -> None:
    made = attempts(connect, tmp_path, b"x" * 100, BUSY, HEAD=at(40), PATCH=at(100))
    assert made == ["PUT 100", "HEAD 0", "PATCH 60", "PUT 0"]


def test_nothing_came_or_all_of_it(connect: Connect, tmp_path: Path) -> None:
    """At 0 the update may have been accepted, its receipt lost: handing in tells."""
    assert attempts(connect, tmp_path, b"x" * 100, BUSY, HEAD=at(0)) == ["PUT 100", "HEAD 0", "PUT 0"]
    assert attempts(connect, tmp_path, b"x" * 100, BUSY, HEAD=at(100)) == ["PUT 100", "HEAD 0", "PUT 0"]


@pytest.mark.parametrize(("status", "code"), [(404, "unknown_upload"), (400, "bad_digest")])
def test_what_is_lost_is_sent_again(connect: Connect, tmp_path: Path, status: int, code: str) -> None:
    made = attempts(connect, tmp_path, b"x" * 100, BUSY, refusal(status, code), HEAD=at(0))
    assert made == ["PUT 100", "HEAD 0", "PUT 0", "PUT 100"]


def test_a_refusal_is_a_refusal(connect: Connect, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="round_over"):
        attempts(connect, tmp_path, b"x" * 100, BUSY, refusal(409, "round_over"), HEAD=at(100))
    with pytest.raises(RefusedError, match="bad_token"):
        attempts(connect, tmp_path, b"x" * 100, BUSY, refusal(401, "bad_token"), HEAD=Answer(401))


@pytest.mark.parametrize("text", ["", "-1", "1e3", "x", "1" * 30, "\u0661"])
def test_an_offset_that_is_none(text: str) -> None:
    assert read_offset("17") == 17
    with pytest.raises(RefusedError, match="Upload-Offset is not a number"):
        read_offset(text)
