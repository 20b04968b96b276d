"""Fleets whose devices are kept for the next process, against a server that follows a script: tokens, uploads
that were begun, models that cannot be gone on with."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from optimizer_runs import Case, export_cases, without_state_signatures
from prepared import call_isolated, in_tensorflow
from scripted_server import Answer, ScriptedServer, refusal, serving
from test_fleet import Script, settings
from trainer_helpers import first_checkpoint

from fedfer.android_stub.cache import Cache
from fedfer.android_stub.device_files import DeviceFiles, devices_directory, held
from fedfer.android_stub.events import Event, Note
from fedfer.android_stub.fleet import run_fleet
from fedfer.export.contract import read_contract
from fedfer.export.optimizer_settings import OPTIMIZERS
from fedfer.model.data import LabelledImages
from fedfer.model.errors import ServerUnreachableError

UPLOAD = "PUT /v1/runs/default/rounds/1/update"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small model with Adam, and the same as it was exported before its state could be kept."""
    folder = tmp_path_factory.mktemp("kept")
    in_tensorflow(export_cases, folder, [Case(OPTIMIZERS["adam"], 0.02)])
    call_isolated(without_state_signatures, folder / "0.tflite", folder / "older.tflite")
    return folder / "0.tflite", folder / "older.tflite"


def script_of(model: Path) -> Script:
    weights = call_isolated(first_checkpoint, model)
    return Script(model.read_bytes(), weights, read_contract(model).digest)


def run_kept(server: ScriptedServer, directory: Path) -> list[str]:
    """What one device that is kept says on its way."""
    rng = np.random.default_rng(0)
    images = LabelledImages(rng.integers(0, 256, (5, 4, 4, 1), np.uint8), np.array([0, 1, 2, 0, 1], np.uint8))
    events: list[Event] = []
    impatient = replace(settings(server.url, directory, give_up_sec=0.4), keeps_devices=True)
    run_fleet(impatient, [images], 1, events.append)
    return [event.text for event in events if isinstance(event, Note)]


def tokens(server: ScriptedServer) -> list[str]:
    return [request.headers["authorization"] for request in server.asked("POST /v1/work")]


def answers(script: Script, **changed: list[Answer]) -> dict[str, list[Answer]]:
    """Work, then nothing more, as often as a fleet is started."""
    usual = script.answers()["POST /v1/work"]
    return script.answers(**{"work": usual * 3, **changed})


def test_the_second_fleet_is_the_first(models: tuple[Path, Path], tmp_path: Path) -> None:
    """It does not enrol; a token that is void is shown to get another, which is kept in its place."""
    script = script_of(models[0])
    unknown = [
        *script.answers()["POST /v1/work"] * 2,
        refusal(401, "bad_token"),
        *script.answers()["POST /v1/work"],
    ]
    with serving(answers(script, work=unknown)) as server:
        for _ in range(3):
            run_kept(server, tmp_path)
        assert tokens(server) == [f"Bearer {token}" for token in ("t1", "t1", "t1", "t1", "t1", "t2", "t2")]
        first, second = server.asked("POST /v1/devices")
        assert b'"token"' not in first.body
        assert b'"token":"t1"' in second.body.replace(b" ", b"")
        files = DeviceFiles(devices_directory(Cache(tmp_path), server.url), "phone-0")
        assert files.token() == "t2"


def test_an_update_that_was_not_sent_is_sent_by_the_next(models: tuple[Path, Path], tmp_path: Path) -> None:
    """Nothing is trained again, and what the server has of it is asked for first."""
    script = script_of(models[0])
    receipt = script.answers()[UPLOAD]
    with serving(answers(script, upload=[refusal(503, "store_failed")])) as server:
        with pytest.raises(ServerUnreachableError):
            run_kept(server, tmp_path)
        server.answer(UPLOAD, receipt)
        num_before = len(server.requests)
        server.answer("POST /v1/work", script.answers()["POST /v1/work"])
        said = run_kept(server, tmp_path)
        again = server.requests[num_before:]
    assert said == ["went on with round 1 after its step 2"]  # of 2: five images in batches of 4
    calls = [(request.method, request.path.split("/")[2]) for request in again]
    assert calls.index(("HEAD", "uploads")) < calls.index(("PUT", "runs"))
    bodies = {request.body for request in server.asked(UPLOAD) if request.body}
    assert len(bodies) == 1


def test_a_model_that_cannot_be_gone_on_with_is_said(models: tuple[Path, Path], tmp_path: Path) -> None:
    with serving(answers(script_of(models[1]))) as server:
        (said,) = run_kept(server, tmp_path)
    assert "cannot give out what its optimizer remembers" in said
    assert list(tmp_path.glob("devices/*/*.progress")) == []
    with serving(answers(script_of(models[0]))) as server:
        assert run_kept(server, tmp_path) == []


def test_a_second_fleet_at_once_keeps_nothing(
    models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedfer.android_stub.device_files.ENDING_SEC", 0.2)
    with (
        serving(answers(script_of(models[0]))) as server,
        held(devices_directory(Cache(tmp_path), server.url)) as is_ours,
    ):
        assert is_ours
        (said,) = run_kept(server, tmp_path)
    assert said.startswith("another fleet has the phones of")
    assert list(tmp_path.glob("devices/*/*.token")) == []
