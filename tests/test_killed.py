"""kill -9 at every step of uploads and of closing, and at random moments: nothing lost, the same bits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from server_helpers import Phone, plain_mean, serving, start, synthetic_update, wait_for_round
from waiting import PATIENCE_SEC

from fedfer.aggregator.faults import POINTS, VARIABLE
from fedfer.export.checkpoint import digest_of
from fedfer.export.contract import read_contract

SCRIPT = Path(__file__).with_name("killed_runs.py")
ROOT = Path(__file__).parents[1]


def killed_runs(model: Path, directory: Path, every: int, random_runs: int) -> dict[str, int]:
    path = os.pathsep.join([str(SCRIPT.parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(SCRIPT), str(model), str(directory), str(every), str(random_runs)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    told: dict[str, int] = json.loads(done.stdout)
    return told


def test_killed_at_every_point_and_at_random(tiny_tflite: Path, tmp_path: Path) -> None:
    told = killed_runs(tiny_tflite, tmp_path, every=4, random_runs=2)
    assert told["at_points"] >= len(POINTS)
    assert told["at_random"] >= 2


@pytest.mark.slow
def test_killed_at_every_pass_of_every_point_and_often_at_random(tiny_tflite: Path, tmp_path: Path) -> None:
    told = killed_runs(tiny_tflite, tmp_path, every=1, random_runs=60)
    assert told["at_points"] + told["at_random"] >= 200


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
