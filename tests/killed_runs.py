"""A run under kill -9, over and over: an aggregator and its phones in one process that is killed and begun
again, which every attempt costs a fork and no imports.

    python killed_runs.py PLOT MODEL DIRECTORY POINTS EVERY RANDOM_RUNS

Plots: `plain`; `learning`, with a holdout set, candidates that are turned down, and a plateau; `bucket`, with
the files in one. POINTS is `all`, or some with commas. What phones know outlives the process in files, as on
a phone: the token that they were given, and which updates they have a receipt for. Prints one JSON object:
kills, passes of each point.
"""

import json
import math
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from postgres import database_url
from run_helpers import one_class, rounds_of
from s3 import CREDENTIALS, S3Server, s3_server
from server_helpers import synthetic_update

from fedfer.aggregator import faults
from fedfer.aggregator.config import HoldoutSource, RunConfig, RunSettings, ServerConfig
from fedfer.aggregator.device_store import Device
from fedfer.aggregator.gates import GateSettings
from fedfer.aggregator.opening import running_service
from fedfer.aggregator.retention import RetentionSettings
from fedfer.aggregator.runs import Run
from fedfer.aggregator.service import Service
from fedfer.aggregator.stopping import StoppingSettings
from fedfer.aggregator.work import Report, Upload
from fedfer.export.checkpoint import digest_of
from fedfer.export.contract import Contract, read_contract
from fedfer.model.sources import load_images

NUM_PHONES = 2
STEP_SEC = 0.002
GIVE_UP_SEC = 120.0


@dataclass(frozen=True)
class Plot:
    """What happens in a run: `bodies` by round and phone; `outcomes` of all rounds, round 0's first."""

    settings: RunSettings
    start: bytes
    bodies: list[list[bytes]]
    outcomes: list[str]
    points: tuple[str, ...]  # that a run of it passes


def plain(contract: Contract) -> Plot:
    """A strategy with state, a gate, and a rule that deletes versions: all that can go wrong at once."""
    settings = RunSettings(
        rounds=rounds_of(NUM_PHONES, deadline_sec=600.0),
        num_rounds=3,
        strategy={"name": "fedadam", "server_learning_rate": 0.1},
        gates=GateSettings(max_norm_ratio=1e6),
        retention=RetentionSettings(keep_last=1),
    )
    bodies = [
        [synthetic_update(contract, 10 * number + phone) for phone in range(NUM_PHONES)]
        for number in range(3)
    ]
    start = synthetic_update(contract, 1000)
    return Plot(settings, start, bodies, ["committed"] * 4, faults.RUN_POINTS)


def learning(contract: Contract) -> Plot:
    """A candidate that is worse, one that is better, and two that are worse: at the plateau the second is
    the result."""
    holdout = HoldoutSource("drawn", take=1)
    settings = RunSettings(
        rounds=rounds_of(NUM_PHONES, deadline_sec=600.0),
        num_rounds=9,
        holdout=holdout,
        strategy={"name": "fedavgm", "momentum": 0.5},
        gates=GateSettings(max_candidate_drop=0.5),
        stopping=StoppingSettings(patience=2),
        retention=RetentionSettings(keep_last=1),
    )
    right = int(load_images("drawn", take=1).labels[0])
    wrong = (right + 1) % len(contract.labels)

    def says(label: int, strength: float) -> list[bytes]:
        return [one_class(contract, label, strength + phone) for phone in range(NUM_PHONES)]

    bodies = [says(wrong, 5.0), says(right, 8.0), says(wrong, 15.0), says(wrong, 20.0)]
    outcomes = ["committed", "rolled_back", "committed", "rolled_back", "rolled_back"]
    points = (*faults.RUN_POINTS, *faults.EVALUATION_POINTS)
    return Plot(settings, one_class(contract, right), bodies, outcomes, points)


def bucket(contract: Contract) -> Plot:
    """As the plain one, with the files in a bucket."""
    as_before = plain(contract)
    return replace(as_before, points=(*as_before.points, *faults.BUCKET_POINTS))


PLOTS: dict[str, Callable[[Contract], Plot]] = {"plain": plain, "learning": learning, "bucket": bucket}


@dataclass(frozen=True)
class Scene:
    """`database_url` None is SQLite, `weights_url` None the data directory alone."""

    model: Path
    start: Path
    directory: Path
    plot: Plot
    database_url: str | None
    weights_url: str | None

    @property
    def config(self) -> ServerConfig:
        run = RunConfig(self.model, initial_weights=self.start, settings=self.plot.settings)
        data_dir, urls = self.directory / "data", (self.database_url, self.weights_url)
        return ServerConfig(data_dir, (run,), database_url=urls[0], weights_url=urls[1])


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
    body = scene.plot.bodies[int(round_number) - 1][number]
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
    assert [row["outcome"] for row in rows] == scene.plot.outcomes
    results = [run.result_weights, *(row["result_weights"] for row in rows)]
    told = {"results": results, "passes": dict(faults.passes)}
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


def scenes(model: Path, directory: Path, plot: Plot, server: S3Server | None) -> Iterator[Scene]:
    """The same run in ever new directories."""
    start = directory / "start.safetensors"
    start.write_bytes(plot.start)
    for number in count():
        place = directory / f"scene-{number}"
        weights_url = server.url(place.name) if server else None
        yield Scene(model, start, place, plot, database_url(place), weights_url)


def kill_at_points(
    stage: Iterator[Scene], undisturbed: dict[str, Any], points: Iterable[str], every: int
) -> int:
    """At every `every`-th pass of these points, each in a run of its own; how many kills that were."""
    kills = 0
    for point in points:
        for number in range(1, undisturbed["passes"][point] + 1, every):
            told = until_done(next(stage), then_none(f"{point}:{number}"), constant(math.inf))
            assert told["results"] == undisturbed["results"], f"{point}:{number}"
            kills += told["kills"]
    return kills


def kill_at_random(stage: Iterator[Scene], undisturbed: dict[str, Any], whole_sec: float, runs: int) -> int:
    """At random moments; `whole_sec` is what a run takes that is left alone."""
    kills, rng = 0, random.Random(0)
    for _ in range(runs):
        # Ever longer in the end: on a machine that is busy a start alone may take what a run took before.
        moments = (rng.uniform(0.0, 0.4 * whole_sec * 1.05**number) for number in count())
        told = until_done(next(stage), constant(None), moments)
        assert told["results"] == undisturbed["results"]
        kills += told["kills"]
    return kills


def main(name: str, model: Path, directory: Path, points: str, every: int, random_runs: int) -> None:
    plot = PLOTS[name](read_contract(model))
    with ExitStack() as exits:
        server = exits.enter_context(s3_server()) if name == "bucket" else None
        stage = scenes(model, directory, plot, server)
        scene = next(stage)  # with its database, which is not a part of the time that a run takes
        begun = time.monotonic()
        undisturbed = until_done(scene, constant("none"), constant(math.inf))
        whole_sec, passes = time.monotonic() - begun, undisturbed["passes"]
        assert set(passes) == set(plot.points), set(plot.points) ^ set(passes)
        wanted = plot.points if points == "all" else points.split(",")
        at_points = kill_at_points(stage, undisturbed, wanted, every)
        at_random = kill_at_random(stage, undisturbed, whole_sec, random_runs)
    print(json.dumps({"at_points": at_points, "at_random": at_random, "passes": passes}))


if __name__ == "__main__":
    os.environ.update(CREDENTIALS)
    name, model, directory, points, every, random_runs = sys.argv[1:]
    main(name, Path(model), Path(directory), points, int(every), int(random_runs))
