"""kill -9 at every step of uploads and of closing, and at random moments: nothing lost, the same bits."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from server_helpers import OCTETS, Phone, plain_mean, serving, start, synthetic_update, wait_for_round
from waiting import PATIENCE_SEC

from fedfer.aggregator.faults import POINTS, RUN_POINTS, VARIABLE
from fedfer.export.checkpoint import digest_of
from fedfer.export.contract import read_contract

SCRIPT = Path(__file__).with_name("killed_runs.py")
ROOT = Path(__file__).parents[1]


def killed_runs(
    plot: str, model: Path, directory: Path, every: int, random_runs: int, points: str = "all"
) -> dict[str, int]:
    path = os.pathsep.join([str(SCRIPT.parent), os.environ.get("PYTHONPATH", "")])
    command = [
        sys.executable,
        str(SCRIPT),
        plot,
        str(model),
        str(directory),
        points,
        str(every),
        str(random_runs),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    told: dict[str, int] = json.loads(done.stdout)
    return told


def test_killed_at_every_point_and_at_random(tiny_tflite: Path, tmp_path: Path) -> None:
    told = killed_runs("plain", tiny_tflite, tmp_path, every=4, random_runs=2)
    assert told["at_points"] >= len(RUN_POINTS)
    assert told["at_random"] >= 2


def test_killed_in_rounds_that_are_evaluated_rolled_back_and_the_last(
    tiny_tflite: Path, tmp_path: Path
) -> None:
    points = "measured,candidate_dropped,round_committed"
    told = killed_runs("learning", tiny_tflite, tmp_path, every=3, random_runs=0, points=points)
    assert told["at_points"] >= 5  # in the first round and the last, and after the first


def test_killed_around_what_goes_into_a_bucket(tiny_tflite: Path, tmp_path: Path) -> None:
    points = "file_in_bucket,update_sent_ahead,upload_kept"
    told = killed_runs("bucket", tiny_tflite, tmp_path, every=4, random_runs=1, points=points)
    assert told["at_points"] >= 8
    assert told["at_random"] >= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plot", "random_runs", "kills"), [("plain", 60, 200), ("learning", 10, 100), ("bucket", 20, 150)]
)
def test_killed_at_every_pass_of_every_point_and_often_at_random(
    plot: str, random_runs: int, kills: int, tiny_tflite: Path, tmp_path: Path
) -> None:
    told = killed_runs(plot, tiny_tflite, tmp_path, every=1, random_runs=random_runs)
    assert told["at_points"] + told["at_random"] >= kills


@pytest.mark.parametrize(
    ("point", "halves_there"), [("piece_synced", 1), ("pieces_checked", 2), ("pieces_dropped", 0)]
)
def test_an_upload_in_pieces_whose_server_dies_goes_on(
    point: str, halves_there: int, tiny_tflite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over HTTP: the phone asks how much came, sends the rest, and its update counts once."""
    contract, options = read_contract(tiny_tflite), ["--clients", "1", "--rounds", "1"]
    body = synthetic_update(contract, 1)
    monkeypatch.setenv(VARIABLE, f"{point}:1")
    with serving(tiny_tflite, tmp_path / "data", *options) as server, server.client() as client:
        phone = Phone(client, "phone").enrol()
        work = phone.work()
        with pytest.raises(httpx.TransportError):
            send_in_pieces(phone, work, body)
        assert server.process.wait(PATIENCE_SEC) == -9
    monkeypatch.delenv(VARIABLE)
    with serving(tiny_tflite, tmp_path / "data", *options) as again, again.client() as client:
        phone.client = client
        assert offset_of(phone, body) == halves_there * len(body) // 2
        assert send_in_pieces(phone, work, body).json()["update"] == digest_of(body)
        record = wait_for_round(client, 1)
        assert [update["update"] for update in record["updates"]] == [digest_of(body)]
        assert record["result_weights"] == digest_of(plain_mean(contract, [(1, 5)]))


def offset_of(phone: Phone, body: bytes) -> int:
    reply = phone.client.head(f"/v1/uploads/{digest_of(body)}", headers=phone.headers)
    return int(reply.headers["upload-offset"])


def send_in_pieces(phone: Phone, work: dict[str, Any], body: bytes) -> httpx.Response:
    """From wherever the upload got; two pieces if nothing came before."""
    path, offset = f"/v1/uploads/{digest_of(body)}", offset_of(phone, body)
    while offset < len(body):
        piece = body[offset : len(body) if offset else len(body) // 2]
        headers = {**phone.headers, **OCTETS, "Upload-Offset": str(offset)}
        offset = int(phone.client.patch(path, content=piece, headers=headers).headers["upload-offset"])
    return phone.upload(work, b"", upload=digest_of(body))


@pytest.mark.parametrize("point", ["upload_kept", "update_noted", "update_accepted"])
def test_a_phone_whose_server_dies_before_the_receipt_sends_again(
    point: str, tiny_tflite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over HTTP: what was counted before the answer was given is counted once."""
    contract, options = read_contract(tiny_tflite), ["--clients", "1", "--rounds", "1"]
    body = synthetic_update(contract, 1)
    monkeypatch.setenv(VARIABLE, f"{point}:1")
    with serving(tiny_tflite, tmp_path / "data", *options) as server, server.client() as client:
        phone = Phone(client, "phone").enrol()
        work = phone.work()
        with pytest.raises(Exception, match=r"disconnected|reset|closed|refused"):
            phone.upload(work, body)
        assert server.process.wait(PATIENCE_SEC) == -9
    monkeypatch.delenv(VARIABLE)
    again = start(tiny_tflite, tmp_path / "data", *options)
    try:
        with again.client() as client:
            phone.client = client
            assert phone.upload(work, body).json()["update"] == digest_of(body)
            record = wait_for_round(client, 1)
            assert [update["update"] for update in record["updates"]] == [digest_of(body)]
            assert record["result_weights"] == digest_of(plain_mean(contract, [(1, 5)]))
    finally:
        again.kill()


def test_every_point_is_in_the_code_once() -> None:
    sources = [path.read_text() for path in ROOT.glob("aggregator/*.py")]
    for point in POINTS:
        assert sum(text.count(f'reach("{point}")') for text in sources) == 1, point
