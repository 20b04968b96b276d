"""The device's HTTP client against real sockets: patience, refusals, untrusted answers, streamed files."""

import base64
import hashlib
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from client_helpers import PausedClient, paused_client
from scripted_server import Answer, refusal, reply, serving

from fedfer.android_stub.connection import open_http
from fedfer.android_stub.replies import Stop, Train, Wait
from fedfer.android_stub.upload import Update
from fedfer.model.errors import RefusedError, ServerUnreachableError, UsageError

A, B, C = "a" * 64, "b" * 64, "c" * 64
ENROLMENT = {"device_id": "d1", "token": "secret-1"}
WAIT = {"action": "wait", "run": "default", "retry_after_sec": 0.5, "reason": "round_full"}
TRAIN: dict[str, Any] = {
    "action": "train",
    "run": "default",
    "round": 3,
    "model": A,
    "weights": C,
    "contract": B,
    "local_epochs": 3,
    "batch_size": 32,
    "learning_rate": 0.02,
    "deadline_sec": 571.2,
}
BYTES = bytes(range(256)) * 2000
NAME = hashlib.sha256(BYTES).hexdigest()
WEIGHTS = f"GET /v1/weights/{NAME}"
MUCH = 10**6


Connect = Callable[..., PausedClient]


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Connect]:
    """Makes clients of a server that share a cache; closes them after the test."""
    with ExitStack() as opened:

        def make(url: str, **settings: float) -> PausedClient:
            paused = paused_client(url, tmp_path, **settings)
            opened.enter_context(paused.http)
            return paused

        yield make


def test_the_token_of_enrolment_goes_with_every_later_call(connect: Connect) -> None:
    script = {"POST /v1/devices": [reply(ENROLMENT, 201)], "POST /v1/work": [reply(WAIT)]}
    with serving(script) as server:
        client = connect(server.url).client
        assert client.enrol("phone-0").device_id == "d1"
        assert client.ask_for_work() == Wait("default", 0.5, "round_full")
        [enrolment], [work] = server.asked("POST /v1/devices"), server.asked("POST /v1/work")
    assert enrolment.body == b'{"name":"phone-0","contract":null}'
    assert "authorization" not in enrolment.headers
    assert work.headers["authorization"] == "Bearer secret-1"


def test_work_is_one_of_three(connect: Connect) -> None:
    stop = reply({"action": "stop", "run": "default", "reason": "rounds", "weights": C})
    with serving({"POST /v1/work": [reply(TRAIN), reply(WAIT), stop]}) as server:
        client = connect(server.url).client
        assert client.ask_for_work() == Train("default", 3, A, C, B, 3, 32, 0.02, 571.2)
        assert client.ask_for_work() == Wait("default", 0.5, "round_full")
        assert client.ask_for_work() == Stop("default", "rounds", C)


# --- patience


def unused_url() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def test_a_server_that_is_down_is_given_up_on_after_growing_pauses(connect: Connect) -> None:
    url = unused_url()
    paused = connect(url, give_up_sec=20)
    with pytest.raises(ServerUnreachableError) as caught:
        paused.client.run_status("default")
    assert sum(paused.pauses) == pytest.approx(20)
    assert paused.pauses[0] <= 0.5 < paused.pauses[1] * 1.0001 <= paused.pauses[3]
    attempts = len(paused.pauses) + 1
    assert f"GET /v1/runs/default at {url} after 20 s and {attempts} attempts" in str(caught.value)
    assert "refused" in str(caught.value)
    assert len(paused.notes) == len(paused.pauses)
    assert f"trying again in {paused.pauses[0]:.1f} s" in paused.notes[0]


@pytest.mark.parametrize("status", [500, 502, 503, 408, 429])
def test_an_answer_that_may_pass_is_tried_again(status: int, connect: Connect) -> None:
    fault = refusal(status, "store_failed")
    with serving({"POST /v1/work": [fault, fault, reply(WAIT)]}) as server:
        paused = connect(server.url)
        assert paused.client.ask_for_work() == Wait("default", 0.5, "round_full")
    assert len(paused.pauses) == 2


def test_retry_after_is_the_least_pause(connect: Connect) -> None:
    busy = reply({}, 503, {"Retry-After": "7"})
    with serving({"POST /v1/work": [busy, reply(WAIT)]}) as server:
        paused = connect(server.url)
        paused.client.ask_for_work()
    assert paused.pauses == [7.0]


def test_a_silent_server_is_tried_again(connect: Connect) -> None:
    with serving({"POST /v1/work": [Answer(delay_sec=2.5), reply(WAIT)]}) as server:
        paused = connect(server.url, read_timeout_sec=2.0)
        paused.client.ask_for_work()
    assert len(paused.pauses) == 1
    assert "ReadTimeout" in paused.notes[0]


def test_an_answer_cut_off_is_asked_for_again(connect: Connect) -> None:
    whole = reply(WAIT)
    with serving({"POST /v1/work": [Answer(200, whole.body, cut_after=10), whole]}) as server:
        paused = connect(server.url)
        assert paused.client.ask_for_work() == Wait("default", 0.5, "round_full")
    assert len(paused.pauses) == 1


# --- refusals and untrusted answers


def test_a_refusal_is_final_and_carries_code_reason_and_status(connect: Connect) -> None:
    with serving({"POST /v1/devices": [refusal(409, "wrong_model", "another\x1b[2J model")]}) as server:
        paused = connect(server.url)
        with pytest.raises(RefusedError, match=r"HTTP 409 wrong_model\): another \[2J model") as caught:
            paused.client.enrol("phone-0", contract=A)
        assert len(server.requests) == 1
    assert (caught.value.status, caught.value.code, paused.pauses) == (409, "wrong_model", [])


@pytest.mark.parametrize(
    "answer",
    [
        Answer(404, b"<html>nginx</html>"),
        Answer(302, b"", {"Location": "http://127.0.0.1:9/"}),
        Answer(200, b"<html>hello</html>"),
        Answer(200, b"[1, 2]"),
        Answer(200, b"[" * 100_000),
        Answer(200, b'"' + b"x" * (5 * 2**20) + b'"'),
        Answer(200, b'{"action": "wait", "retry_after_sec": NaN, "reason": "x"}'),
        reply({}),
        reply({"action": "dance"}),
        reply({**WAIT, "retry_after_sec": -1}),
        reply({**WAIT, "retry_after_sec": 1e9}),
        reply({**WAIT, "retry_after_sec": True}),
        reply({"action": "stop", "run": "default", "reason": "rounds", "weights": "../../etc/passwd"}),
        reply({**TRAIN, "model": A.upper()}),
        reply({**TRAIN, "weights": None}),
        reply({**TRAIN, "local_epochs": 0}),
        reply({**TRAIN, "local_epochs": 10**9}),
        reply({**TRAIN, "batch_size": 1.5}),
        reply({**TRAIN, "learning_rate": "0.02"}),
        reply({**TRAIN, "learning_rate": 10**400}),
        reply({**TRAIN, "round": 0}),
    ],
    ids=lambda answer: f"{answer.status}-{answer.body[:60].decode()}",
)
def test_an_answer_that_is_not_of_the_protocol_is_a_bad_reply(answer: Answer, connect: Connect) -> None:
    with serving({"POST /v1/work": [answer]}) as server:
        paused = connect(server.url)
        with pytest.raises(RefusedError) as caught:
            paused.client.ask_for_work()
    assert caught.value.code == "bad_reply"
    assert paused.pauses == []


@pytest.mark.parametrize("token", ["", "two words", "line\r\nbreak", "é", "x" * 300])
def test_a_token_that_is_no_header_value_is_a_bad_reply(token: str, connect: Connect) -> None:
    with serving({"POST /v1/devices": [reply({**ENROLMENT, "token": token}, 201)]}) as server:
        client = connect(server.url).client
        with pytest.raises(RefusedError, match="`token` is not 1 to 256 letters"):
            client.enrol("phone-0")


@pytest.mark.parametrize("url", ["", "127.0.0.1:8750", "ftp://host", "http://", "http://host:port"])
def test_a_url_that_is_none_is_named(url: str) -> None:
    with pytest.raises(UsageError, match="expected http://HOST:PORT"):
        open_http(url)


# --- downloads


def files_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.rglob("*") if path.is_file() and path.name != ".lock")


def test_a_download_is_named_by_its_content_and_fetched_once(connect: Connect, tmp_path: Path) -> None:
    with serving({WEIGHTS: [Answer(200, BYTES)]}) as server:
        client = connect(server.url).client
        path = client.fetch_weights(NAME, MUCH)
        assert path.read_bytes() == BYTES
        assert client.fetch_weights(NAME, MUCH) == path
        assert connect(server.url).client.fetch_weights(NAME, MUCH) == path
        assert len(server.requests) == 1
    assert files_in(tmp_path) == [NAME]
    assert client.connection.received_bytes == len(BYTES)


def test_a_broken_download_goes_on_where_it_broke(connect: Connect) -> None:
    script = [
        Answer(200, BYTES, cut_after=200_000),
        Answer(200, BYTES, ranges=True, cut_after=100_000),
        Answer(200, BYTES, ranges=True),
    ]
    with serving({WEIGHTS: script}) as server:
        paused = connect(server.url)
        assert paused.client.fetch_weights(NAME, MUCH).read_bytes() == BYTES
        ranges = [request.headers.get("range") for request in server.requests]
    assert ranges == [None, "bytes=200000-", "bytes=300000-"]
    assert paused.client.connection.received_bytes == len(BYTES)


def test_a_server_without_ranges_sends_everything_again(connect: Connect) -> None:
    with serving({WEIGHTS: [Answer(200, BYTES, cut_after=1000), Answer(200, BYTES)]}) as server:
        client = connect(server.url).client
        assert client.fetch_weights(NAME, MUCH).read_bytes() == BYTES


@pytest.mark.parametrize(
    "left", [b"not these bytes", BYTES[:1000], BYTES, BYTES + b"more"], ids=["bad", "half", "all", "longer"]
)
def test_what_an_earlier_process_left_is_completed_or_replaced(
    left: bytes, connect: Connect, tmp_path: Path
) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / f"{NAME}.part").write_bytes(left)
    with serving({WEIGHTS: [Answer(200, BYTES, ranges=True)]}) as server:
        assert connect(server.url).client.fetch_weights(NAME, MUCH).read_bytes() == BYTES
        assert len(server.requests) == (1 if left in BYTES else 2)
    assert files_in(tmp_path) == [NAME]


def test_a_damaged_file_in_the_cache_is_fetched_again(connect: Connect, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / NAME).write_bytes(BYTES[:-1])
    with serving({WEIGHTS: [Answer(200, BYTES)]}) as server:
        assert connect(server.url).client.fetch_weights(NAME, MUCH).read_bytes() == BYTES


def test_other_bytes_than_the_name_says_are_refused_and_not_kept(connect: Connect, tmp_path: Path) -> None:
    with serving({WEIGHTS: [Answer(200, BYTES[::-1])]}) as server:
        client = connect(server.url).client
        with pytest.raises(RefusedError, match="another sha256"):
            client.fetch_weights(NAME, MUCH)
    assert files_in(tmp_path) == []


def test_a_download_without_end_is_cut_at_the_size_it_can_have(connect: Connect, tmp_path: Path) -> None:
    with serving({WEIGHTS: [Answer(200, BYTES)]}) as server:
        client = connect(server.url).client
        with pytest.raises(RefusedError, match="longer than the 100000 bytes"):
            client.fetch_weights(NAME, 100_000)
    assert client.connection.received_bytes < 300_000
    assert sum(path.stat().st_size for path in (tmp_path / "weights").iterdir()) == 0


def test_the_newest_checkpoints_are_kept(connect: Connect, tmp_path: Path) -> None:
    bodies = {hashlib.sha256(bytes([i])).hexdigest(): bytes([i]) for i in range(5)}
    script = {f"GET /v1/weights/{name}": [Answer(200, body)] for name, body in bodies.items()}
    with serving(script) as server:
        client = connect(server.url).client
        for name in bodies:
            client.fetch_weights(name, MUCH)
    assert files_in(tmp_path) == sorted(list(bodies)[-3:])


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="as a cache: Not a directory; name another with --cache-dir"):
        paused_client("http://127.0.0.1:9", tmp_path / "file")


# --- uploads

RECEIPT = reply(
    {"update": NAME, "run": "default", "round": 2, "num_examples": 5, "received_bytes": len(BYTES)}
)
PUT = "PUT /v1/runs/default/rounds/2/update"


def update_in(directory: Path) -> Update:
    path = directory / "update"
    path.write_bytes(BYTES)
    return Update(path, NAME, A, num_examples=5, loss=1.5, accuracy=0.2, train_sec=1.23456)


def test_an_upload_says_what_it_is(connect: Connect, tmp_path: Path) -> None:
    with serving({PUT: [RECEIPT]}) as server:
        client = connect(server.url).client
        assert client.upload_update("default", 2, update_in(tmp_path)).received_bytes == len(BYTES)
        [request] = server.requests
    assert request.body == BYTES
    assert request.query == f"base_weights={A}&num_examples=5&loss=1.5&accuracy=0.2&train_sec=1.235"
    assert request.headers["content-length"] == str(len(BYTES))
    assert request.headers["content-type"] == "application/octet-stream"
    digest = base64.b64encode(hashlib.sha256(BYTES).digest()).decode()
    assert request.headers["content-digest"] == f"sha-256=:{digest}:"
    assert "transfer-encoding" not in request.headers
    assert client.connection.sent_bytes == len(BYTES)


def test_an_upload_is_repeated_whole_where_nothing_is_kept(connect: Connect, tmp_path: Path) -> None:
    with serving({PUT: [refusal(503, "store_failed"), RECEIPT]}) as server:
        client = connect(server.url).client
        client.upload_update("default", 2, update_in(tmp_path))
        assert [request.body for request in server.asked(PUT)] == [BYTES, BYTES]
    assert client.connection.sent_bytes == 2 * len(BYTES)


def test_a_refusal_before_the_body_was_read_is_heard(connect: Connect, tmp_path: Path) -> None:
    early = Answer(413, refusal(413, "too_large").body, reads_body=False)
    with serving({PUT: [early]}) as server:
        paused = connect(server.url)
        with pytest.raises(RefusedError, match="too_large"):
            paused.client.upload_update("default", 2, update_in(tmp_path))
