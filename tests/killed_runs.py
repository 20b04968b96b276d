"""A run under kill -9, over and over: an aggregator and its phones in one process that is killed and begun
again, which every attempt costs a fork and no imports.

    python killed_runs.py MODEL DIRECTORY EVERY RANDOM_RUNS

What phones know outlives the process in files, as on a phone: the token that they were given, and which
updates they have a receipt for. Prints one JSON object: kills, passes of each point, result of each round.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from postgres import database_url
from run_helpers import rounds_of

from fedfer.aggregator import faults
from fedfer.aggregator.config import RunConfig, RunSettings, ServerConfig
from fedfer.aggregator.device_store import Device
from fedfer.aggregator.gates import GateSettings
from fedfer.aggregator.opening import running_service
from fedfer.aggregator.retention import RetentionSettings
from fedfer.aggregator.runs import Run
from fedfer.aggregator.service import Service
from fedfer.aggregator.work import Report, Upload
from fedfer.export.checkpoint import digest_of

NUM_PHONES = 2
STEP_SEC = 0.002
GIVE_UP_SEC = 120.0


def settings(num_rounds: int) -> RunSettings:
    """A strategy with state, a gate, and a rule that deletes versions: all that can go wrong at once."""
    return RunSettings(
        rounds=rounds_of(NUM_PHONES, deadline_sec=600.0),
        num_rounds=num_rounds,
        strategy={"name": "fedadam", "server_learning_rate": 0.1},
        gates=GateSettings(max_norm_ratio=1e6),
        retention=RetentionSettings(keep_last=1),
    )


@dataclass(frozen=True)
class Scene:
    """`bodies` by round and phone; `database_url` None is SQLite."""

    model: Path
    start: Path
    directory: Path
    bodies: list[list[bytes]]
    database_url: str | None

    @property
    def num_rounds(self) -> int:
        return len(self.bodies)

    @property
    def config(self) -> ServerConfig:
        run = RunConfig(self.model, initial_weights=self.start, settings=settings(self.num_rounds))
        return ServerConfig(self.directory / "data", (run,), database_url=self.database_url)


def play(scene: Scene) -> None:
    """From wherever the last process was killed to the end of the run."""
    with running_service(scene.config) as service:
        run = service.run("default")
        give_up_at = time.monotonic() + GIVE_UP_SEC
        while not run.is_over:
            assert time.monotonic() < give_up_at, f"the run does not go on: it waits for {run.waits_for()}"
            for number in range(NUM_PHONES):
                phone_step(scene, service, run, number)
            time.sleep(STEP_SEC)
        tell(scene, service, run)


def phone_step(scene: Scene, service: Service, run: Run, number: int) -> None:
    """Enrols, asks, sends, once each if it has to be done."""
    notes = scene.directory / f"phone-{number}"
    token = notes / "token"
    if not token.exists():
        write(token, service.enrol(f"phone-{number}", None).token)
    device = service.authenticate(token.read_text())
    sending = notes / "sending"  # what was being sent when the server was killed is sent again
    if not sending.exists():
        work = run.work(device)
        if work.wait_reason is not None or work.final_weights is not None:
            return
        round_ = work.round_
        assert not (notes / f"receipt-{round_.number}").exists(), "a round asks again for what it has"
        write(sending, f"{round_.number} {round_.base.weights}")
    round_number, base_weights = sending.read_text().split()
    body = scene.bodies[int(round_number) - 1][number]
    receipt = upload(run, device, int(round_number), base_weights, body)
    write(notes / f"receipt-{round_number}", receipt)
    sending.unlink()


def write(path: Path, text: str) -> None:
    """All of it or nothing, whenever this process is killed."""
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(text)
    unfinished.rename(path)


def upload(run: Run, device: Device, number: int, base_weights: str, body: bytes) -> str:
    run.check_upload(device, number, base_weights)
    path = run.blobs.temporary_path()
    path.write_bytes(body)
    sent = Upload(path, digest_of(body), len(body))
    earlier = run.repeated(device, number, sent)
    if earlier is None:
        run.check_content(sent)
        earlier = run.accept(device, number, sent, Report(base_weights, 5, 1.0, 0.5, None))
    return earlier.sha256


def tell(scene: Scene, service: Service, run: Run) -> None:
    """What came of the run, for the process that waits."""
    rows = run.rounds.rows()
    for number in range(NUM_PHONES):
        for row in rows[1:]:
            receipt = scene.directory / f"phone-{number}" / f"receipt-{row['number']}"
            counted = [update["sha256"] for update in row["updates"]]
            assert receipt.read_text() in counted, "a receipt was given for what does not count"
            assert len(counted) == NUM_PHONES
    told = {"results": [row["result_weights"] for row in rows], "passes": dict(faults.passes)}
    (scene.directory / "told.json").write_text(json.dumps(told))


def until_done(scene: Scene, arms: Iterator[str | None], kill_after_sec: Iterator[float]) -> dict[str, Any]:
    """Forks processes that play until one comes to the end; returns what it told, with `kills`."""
    scene.directory.mkdir()
    for number in range(NUM_PHONES):
        (scene.directory / f"phone-{number}").mkdir()
    for kills in range(10_000):
        arm, limit_sec = next(arms), next(kill_after_sec)
        child = os.fork()
        if child == 0:
            run_child(scene, arm)
        status = wait(child, limit_sec)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, f"a process failed, after {kills} kills; armed with {arm}"
            told: dict[str, Any] = json.loads((scene.directory / "told.json").read_text())
            shutil.rmtree(scene.directory)
            return {**told, "kills": kills}
    raise AssertionError("no end")


def run_child(scene: Scene, arm: str | None) -> None:
    code = 1
    try:
        faults.arm(arm)
        play(scene)
        code = 0
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(code)


def wait(child: int, limit_sec: float) -> int:
    """The child's exit status; kills it when its time is over."""
    kill_at = time.monotonic() + limit_sec
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status
        if time.monotonic() > kill_at:
            os.kill(child, signal.SIGKILL)
            return os.waitpid(child, 0)[1]
        time.sleep(0.001)


def constant(value: float | str | None) -> Iterator[Any]:
    while True:
        yield value


def then_none(*arms: str) -> Iterator[str | None]:
    yield from arms
    yield from constant(None)


def scenes(model: Path, directory: Path, num_rounds: int) -> Iterator[Scene]:
    """The same run in ever new directories."""
    from server_helpers import synthetic_update

    from fedfer.export.contract import read_contract

    contract = read_contract(model)
    start = directory / "start.safetensors"
    start.write_bytes(synthetic_update(contract, 1000))
    bodies = [
        [synthetic_update(contract, 10 * number + phone) for phone in range(NUM_PHONES)]
        for number in range(num_rounds)
    ]
    number = 0
    while True:
        place = directory / f"scene-{number}"
        yield Scene(model, start, place, bodies, database_url(place))
        number += 1


def main(model: Path, directory: Path, every: int, random_runs: int) -> None:
    """Kills at every `every`-th pass of every point, each in a run of its own; then at random moments."""
    never = constant(float("inf"))
    short = scenes(model, directory, 3)
    scene = next(short)  # with its database, which is not a part of the time that a run takes
    begun = time.monotonic()
    undisturbed = until_done(scene, constant("none"), never)
    whole_sec = time.monotonic() - begun
    expected, passes = undisturbed["results"], undisturbed["passes"]
    assert set(passes) == set(faults.POINTS), set(faults.POINTS) ^ set(passes)
    kills, rng = 0, random.Random(0)
    for point in faults.POINTS:
        for number in range(1, passes[point] + 1, every):
            told = until_done(next(short), then_none(f"{point}:{number}"), never)
            assert told["results"] == expected, f"{point}:{number}"
            kills += told["kills"]
    at_points, random_kills = kills, []
    for _ in range(random_runs):
        # Ever longer in the end: on a machine that is busy a start alone may take what a run took before.
        moments = (rng.uniform(0.0, 0.4 * whole_sec * 1.05**number) for number in count())
        told = until_done(next(short), constant(None), moments)
        assert told["results"] == expected
        random_kills.append(told["kills"])
    print(json.dumps({"at_points": at_points, "at_random": sum(random_kills), "passes": passes}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
