"""Devices over processes: whose turn it is; and real processes against a server that follows a script."""

import hashlib
import multiprocessing
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from prepared import call_isolated
from scripted_server import Answer, ScriptedServer, refusal, reply, serving
from trainer_helpers import first_checkpoint, noise

from fedfer.android_stub.backoff import RetryPolicy
from fedfer.android_stub.events import Event, Failed, Finished, Note, RoundSeen, Trained
from fedfer.android_stub.fleet import run_fleet
from fedfer.android_stub.summary import FleetSummary
from fedfer.android_stub.worker import WorkerSettings, drive
from fedfer.export.contract import read_contract
from fedfer.export.engines import EngineChoice
from fedfer.model.errors import (
    FedferError,
    InterpreterError,
    RefusedError,
    ServerUnreachableError,
    UsageError,
)

# --- whose turn it is


@dataclass
class Timeline:
    now: float = 0.0
    steps: list[tuple[float, str]] = field(default_factory=list)

    def sleep(self, sec: float) -> None:
        self.now += sec


@dataclass
class PausingDevice:
    """Takes its pauses one by one, then has finished, or fails."""

    name: str
    timeline: Timeline
    pauses: list[float]
    failure: FedferError | None = None

    def step(self) -> float | None:
        self.timeline.steps.append((self.timeline.now, self.name))
        if self.pauses:
            return self.pauses.pop(0)
        if self.failure is not None:
            raise self.failure
        return None


def test_the_device_that_is_due_first_goes_first_and_none_blocks_another() -> None:
    time = Timeline()
    devices = [PausingDevice("a", time, [5.0]), PausingDevice("b", time, [1.0, 1.0])]
    drive(devices, lambda event: None, lambda: time.now, time.sleep)
    assert time.steps == [(0, "a"), (0, "b"), (1, "b"), (2, "b"), (5, "a")]


def test_a_device_that_fails_ends_its_process() -> None:
    time, events = Timeline(), list[Event]()
    failure = RefusedError("no")
    devices = [PausingDevice("a", time, [1.0], failure), PausingDevice("b", time, [2.0])]
    drive(devices, events.append, lambda: time.now, time.sleep)
    assert events == [Failed("a", failure)]
    assert time.steps[-1] == (1, "a")


# --- a device's life against a script


@dataclass(frozen=True)
class Script:
    """Answers around the tiny model: a server that wants one round of one device."""

    model: bytes
    weights: bytes
    contract: str

    @property
    def weights_name(self) -> str:
        return hashlib.sha256(self.weights).hexdigest()

    @property
    def train(self) -> dict[str, Any]:
        return {
            "action": "train",
            "run": "default",
            "round": 1,
            "model": hashlib.sha256(self.model).hexdigest(),
            "weights": self.weights_name,
            "contract": self.contract,
            "local_epochs": 1,
            "batch_size": 4,
            "learning_rate": 0.02,
            "deadline_sec": 60.0,
        }

    def enrolment(self, token: str) -> Answer:
        return reply({"device_id": "d", "token": token}, 201)

    def answers(self, **changed: list[Answer]) -> dict[str, list[Answer]]:
        receipt = {
            "update": "0" * 64,
            "run": "default",
            "round": 1,
            "num_examples": 5,
            "received_bytes": 1000,
        }
        stop = {"action": "stop", "run": "default", "reason": "rounds", "weights": self.weights_name}
        done: dict[str, Any] = {"run": "default", "round": 1, "phase": "done", "updates": [{}]}
        usual = {
            "enrol": [self.enrolment("t1"), self.enrolment("t2")],
            "work": [reply(self.train), reply(stop)],
            "model": [Answer(200, self.model)],
            "weights": [Answer(200, self.weights)],
            "upload": [reply(receipt)],
            "round": [reply({**done, "holdout_loss": 1.5, "holdout_accuracy": 0.25})],
        }
        paths = {
            "enrol": "POST /v1/devices",
            "work": "POST /v1/work",
            "model": f"GET /v1/models/{self.train['model']}",
            "weights": f"GET /v1/weights/{self.weights_name}",
            "upload": "PUT /v1/runs/default/rounds/1/update",
            "round": "GET /v1/runs/default/rounds/1",
        }
        return {paths[call]: answers for call, answers in {**usual, **changed}.items()}


@pytest.fixture(scope="module")
def script(tiny_tflite: Path) -> Script:
    weights = call_isolated(first_checkpoint, tiny_tflite)
    return Script(tiny_tflite.read_bytes(), weights, read_contract(tiny_tflite).digest)


@dataclass
class Run:
    summary: FleetSummary
    events: list[Event]
    server: ScriptedServer

    def notes(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Note)]


def settings(url: str, directory: Path, give_up_sec: float = 30.0) -> WorkerSettings:
    return WorkerSettings(
        url, directory, EngineChoice(), 0, RetryPolicy(first_pause_sec=0.05, give_up_sec=give_up_sec)
    )


def run_one(directory: Path, answers: dict[str, list[Answer]]) -> Run:
    """A fleet of one device with 5 images."""
    events: list[Event] = []
    with serving(answers) as server:
        summary = run_fleet(settings(server.url, directory), [noise(5, 0)], 1, events.append)
        return Run(summary, events, server)


def test_a_life_without_incidents(script: Script, tmp_path: Path) -> None:
    run = run_one(tmp_path, script.answers())
    calls = [(request.method, request.path.split("/")[2]) for request in run.server.requests]
    usual = [
        "POST devices",
        "POST work",
        "GET models",
        "GET weights",
        "PUT runs",
        "POST work",
        "GET runs",
    ]
    assert [f"{method} {what}" for method, what in calls] == usual
    trained, seen, finished = run.events
    assert isinstance(trained, Trained)
    assert (trained.device, trained.round, trained.num_examples) == ("phone-0", 1, 5)
    assert isinstance(seen, RoundSeen)
    assert (seen.result.num_updates, seen.result.holdout_accuracy) == (1, 0.25)
    assert isinstance(finished, Finished)
    sent = len(run.server.asked("PUT /v1/runs/default/rounds/1/update")[0].body)
    assert run.summary.sent_bytes == sent
    assert run.summary.received_bytes == pytest.approx(len(script.model) + len(script.weights), abs=2000)
    assert (run.summary.num_updates, run.summary.num_examples) == (1, 5)
    assert run.summary.final_weights == script.weights_name
    assert [path.name for path in (tmp_path / "updates").iterdir()] == []


def test_a_token_that_is_no_longer_known_is_replaced_once(script: Script, tmp_path: Path) -> None:
    usual = script.answers()["POST /v1/work"]
    run = run_one(tmp_path, script.answers(work=[refusal(401, "bad_token"), *usual]))
    tokens = [request.headers["authorization"] for request in run.server.asked("POST /v1/work")]
    assert tokens == ["Bearer t1", "Bearer t2", "Bearer t2"]
    assert "enrolling again" in run.notes()[0]


def test_a_server_that_knows_no_token_is_not_asked_for_ever(script: Script, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"^phone-0: the server refused \(HTTP 401 bad_token\)") as caught:
        run_one(tmp_path, script.answers(work=[refusal(401, "bad_token")]))
    assert (caught.value.status, caught.value.code) == (401, "bad_token")


@pytest.mark.parametrize("code", ["round_over", "not_assigned"])
def test_a_device_that_comes_too_late_asks_for_other_work(code: str, script: Script, tmp_path: Path) -> None:
    run = run_one(tmp_path, script.answers(upload=[refusal(409, code)]))
    assert len(run.server.asked("POST /v1/work")) == 2
    assert code in run.notes()[0]
    assert run.summary.num_updates == 0
    assert list((tmp_path / "updates").iterdir()) == []


def test_the_same_task_is_trained_to_the_same_bits_again(script: Script, tmp_path: Path) -> None:
    _, stop = script.answers()["POST /v1/work"]
    work = [reply(script.train), reply(script.train), stop]
    receipt = script.answers()["PUT /v1/runs/default/rounds/1/update"]
    answers = script.answers(work=work, upload=[refusal(409, "round_over"), *receipt])
    first, second = run_one(tmp_path, answers).server.asked("PUT /v1/runs/default/rounds/1/update")
    assert first.body == second.body
    assert first.body != script.weights


def test_an_update_that_is_refused_for_its_content_ends_the_fleet(script: Script, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"phone-0: .*wrong_shape"):
        run_one(tmp_path, script.answers(upload=[refusal(422, "wrong_shape")]))


def test_a_checkpoint_of_another_model_is_not_trained(script: Script, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"phone-0: .*its model has contract"):
        run_one(tmp_path, script.answers(work=[reply({**script.train, "contract": "0" * 64})]))


def test_a_model_that_is_none_is_named(script: Script, tmp_path: Path) -> None:
    fake = Script(b"not a model", script.weights, script.contract)
    with pytest.raises(FedferError, match=r"phone-0: .*TFL3") as caught:
        run_one(tmp_path, fake.answers())
    assert caught.value.code == "bad_model_file"


# --- processes


def test_a_process_that_dies_is_named(script: Script, tmp_path: Path) -> None:
    def kill(event: Event) -> None:
        [process] = multiprocessing.active_children()
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)

    with serving(script.answers(work=[refusal(503, "store_failed")])) as server:
        images = [noise(5, 0), noise(5, 1)]
        with pytest.raises(InterpreterError, match="process of phone-0, phone-1 died with exit code -9"):
            run_fleet(settings(server.url, tmp_path), images, 1, kill)
    assert multiprocessing.active_children() == []


def test_one_device_that_gives_up_ends_all_processes(script: Script, tmp_path: Path) -> None:
    images = [noise(5, 0), noise(5, 1)]
    said = r"^phone-\d: gave up on POST /v1/work at http://127"
    with serving(script.answers(work=[refusal(503, "store_failed")])) as server:
        patience = settings(server.url, tmp_path, give_up_sec=0.4)
        with pytest.raises(ServerUnreachableError, match=said):
            run_fleet(patience, images, 2, print)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(("sizes", "processes"), [([], 1), ([5], 0), ([5, 0], 1)])
def test_a_fleet_that_cannot_be_is_refused(sizes: list[int], processes: int, tmp_path: Path) -> None:
    holdings = [noise(5, 0).take(slice(0, size)) for size in sizes]
    with pytest.raises(UsageError, match="expected at least one"):
        run_fleet(settings("http://127.0.0.1:9", tmp_path), holdings, processes, print)


def test_a_url_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^'nowhere' is not the URL"):
        run_fleet(settings("nowhere", tmp_path), [noise(5, 0)], 1, print)
