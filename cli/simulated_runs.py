"""A simulation from its scenario to its record: model, data, aggregator, fleet, results."""

import hashlib
import importlib.util
import json
import shutil
import time
from contextlib import closing
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfer.aggregator.config import RunSettings
from fedfer.aggregator.pace import Pace
from fedfer.aggregator.run_files import parse_settings
from fedfer.android_stub.cache import Cache
from fedfer.android_stub.simulation import costs
from fedfer.android_stub.simulation.attacks import attack_settings, attackers
from fedfer.android_stub.simulation.availability import most_at_once
from fedfer.android_stub.simulation.breakage import Breakage
from fedfer.android_stub.simulation.faults import FaultSettings, fault_settings
from fedfer.android_stub.simulation.fleets import fleet_profiles
from fedfer.android_stub.simulation.journal import Journal, only_one
from fedfer.android_stub.simulation.phone import Phone
from fedfer.android_stub.simulation.record import FORMAT, Recorder, device_record, target_of
from fedfer.android_stub.simulation.scenario import DataSource, Scenario, resolved
from fedfer.android_stub.simulation.server_link import ServerLink, Standing
from fedfer.android_stub.simulation.simulation import Fleet, Position, Simulation
from fedfer.android_stub.simulation.tasks import BenchSettings, store_data
from fedfer.cli.children import Children, wait_for_line
from fedfer.cli.mean_version import last_committed, mean_of
from fedfer.cli.progress import Progress, Seen, duration
from fedfer.cli.simulated_server import RUN, SimulatedServer
from fedfer.cli.simulation_means import Means
from fedfer.cli.watch import Screen
from fedfer.export.checkpoint import checkpoint_bytes, digest_of, load_checkpoint, max_checkpoint_bytes
from fedfer.export.contract import Contract, read_contract
from fedfer.export.evaluation import evaluate_apart
from fedfer.model.data import LabelledImages, check_fit
from fedfer.model.errors import RefusedError, UsageError
from fedfer.model.partition import num_owners, partition
from fedfer.model.sources import load_images
from fedfer.model.strict_settings import from_mapping

READY_SEC = 600.0
KEPT_VERSIONS = 10  # on disk, unless the scenario has a rule of its own


class SimulatedRun:
    """One scenario in one output directory:

    record.json, report.html, model.tflite, final.safetensors, mean.safetensors   results
    work/                                                       what the simulation needs to go on
    """

    def __init__(self, scenario: Scenario, output: Path, means: Means, command: str) -> None:
        self._scenario, self._output, self._means, self._command = scenario, output, means, command
        self._num_processes = 0  # until the simulation has them
        self._work = output / "work"
        self._keras_model = self._work / "model.keras"  # of the engine keras, if it is exported here
        self._screen = Screen()
        self._draws_report = importlib.util.find_spec("matplotlib") is not None
        self._holdout: LabelledImages | None = None
        self._num_at_once = scenario.num_devices  # that can be there together, and have the memory for a task
        self._started_at = datetime.now(UTC)
        self._started = time.monotonic()

    def run(self, fresh: bool) -> dict[str, Any]:
        """The record, as it is written too. Raises FedferError."""
        scenario = self._scenario
        self._require_images()
        settings = parse_settings(self._run_settings())  # refused here rather than in minutes
        from_mapping(Pace, scenario.server.pace, "server.pace")
        faults = fault_settings(scenario.faults)
        if scenario.holdout is not None:
            self._holdout = load_images(**self._run_settings()["holdout"])
        if not self._draws_report:
            self._screen.line("there will be no report.html without matplotlib: pip install 'fedfer[plot]'")
        with only_one(self._output):
            return self._run(settings, faults, fresh)

    def _run(self, settings: RunSettings, faults: FaultSettings, fresh: bool) -> dict[str, Any]:
        scenario = self._scenario
        images = load_images(
            **source_of(scenario.data, scenario.folder), owner_column=scenario.partition.column
        )
        if scenario.num_devices == 0 and images.owners is not None:
            scenario = self._scenario = replace(scenario, num_devices=num_owners(images.owners))
        holdings = partition_of(scenario, images)
        if settings.rounds.fraction is None and settings.rounds.num_clients > len(holdings):
            self._screen.line(
                f"rounds want {settings.rounds.num_clients} updates, and there are {len(holdings)} devices: "
                "each goes on until its deadline"
            )
        fleet = fleet_of(scenario, holdings)  # refused before the model is exported
        self._check_presence(fleet)
        if fresh:  # now that nothing of the scenario can be refused any more
            shutil.rmtree(self._work, ignore_errors=True)
        self._make_directories()
        with Children(self._work / "logs") as children:
            model = self._model(children)
            contract = read_contract(model)
            check_fit(images, contract.image_shape, len(contract.labels))
            store_data(images, self._work / "data")
            recorder = Recorder(max_checkpoint_bytes(contract))
            journal = Journal(self._work, self._work / "server", self._identity(model))
            kept = journal.find()
            model = shutil.copyfile(model, self._output / "model.tflite")
            if kept is not None:
                journal.put_back()
                self._started_at = datetime.fromisoformat(kept["started_at"])
            else:
                shutil.rmtree(self._work / "server", ignore_errors=True)
            server = _Aggregator(children, self._server(model), self._work / "server.json")
            link = ServerLink(server.url, Cache(self._work / "cache"), RUN, self._screen.line)
            breakage = Breakage(
                faults, scenario.seed, contract, recorder, self._work / "updates", server.restart
            )
            with closing(link):
                standing, wall_sec = self._simulate(link, fleet, recorder, journal, kept, breakage)
                self._keep_final(link, contract, standing)
                averaged = self._keep_mean(link, contract, recorder)
        record = self._record(contract, model, images.labels, fleet, recorder, standing, averaged, wall_sec)
        (self._output / "record.json").write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
        self._report()
        self._say_end(record)
        return record

    def _check_presence(self, fleet: Fleet) -> None:
        """Notes how many can be there together. Raises UsageError if rounds wait for more than exist."""
        able = (
            phone.profile for phone in fleet.phones if costs.fits_memory(phone.profile, fleet.memory_bytes)
        )
        self._num_at_once = most_at_once(profile.availability for profile in able)
        wanted = parse_settings(self._run_settings()).rounds.min_devices
        if wanted > len(fleet.phones):
            raise UsageError(
                f"run.rounds.min_devices is {wanted}, and the fleet has {len(fleet.phones)} devices: "
                "no round would begin"
            )
        if wanted > self._num_at_once:
            self._screen.line(
                f"rounds wait for {wanted} devices (run.rounds.min_devices), and at most {self._num_at_once} "
                "are there together and have the memory: it may be that none begins"
            )

    def _report(self) -> None:
        """The page beside the record, where there is matplotlib to draw it with."""
        if not self._draws_report:
            return
        from fedfer.cli.simulation_report.page import write_report
        from fedfer.cli.simulation_report.record import read_record

        write_report(self._output / "report.html", read_record(self._output / "record.json"))

    def _simulate(
        self,
        link: ServerLink,
        fleet: Fleet,
        recorder: Recorder,
        journal: Journal,
        kept: dict[str, Any] | None,
        breakage: Breakage,
    ) -> tuple[Standing, float]:
        """Where the run ended, and how long all of it took in real time."""
        before_sec = 0.0 if kept is None else kept["wall_sec"]
        num_rounds = parse_settings(self._run_settings()).num_rounds
        rounds_done = 0 if kept is None else len(kept["simulation"]["recorder"]["rounds"]) - 1
        progress = Progress(self._screen, num_rounds, self._wall_sec(), rounds_done)
        bench = BenchSettings(self._work / "data", self._means.choice(self._keras_model))
        with self._means.executor(bench) as executor:
            self._num_processes = executor.size
            simulation = Simulation(
                fleet,
                link,
                executor,
                recorder,
                self._work / "updates",
                lambda position: self._show(position, recorder, progress),
                breakage,
                self._scenario.target_accuracy,
            )

            def state() -> dict[str, Any]:
                return {
                    "simulation": simulation.state(),
                    "wall_sec": before_sec + self._wall_sec(),
                    "started_at": self._started_at.isoformat(),
                }

            simulation.on_round = lambda: journal.keep(state)
            if kept is not None:
                simulation.restore(kept["simulation"])
                self._screen.line(f"going on after round {recorder.next_round - 1}")
            standing = simulation.run()
            return standing, before_sec + self._wall_sec()

    def _model(self, children: Children) -> Path:
        """The `.tflite`, exported if the scenario says from what, unless that was done before. Not yet where
        it belongs: that may be another scenario's."""
        source, output = self._scenario.model, self._work / "model.tflite"
        if source.path is not None:
            try:
                shutil.copyfile(self._scenario.folder / source.path, output)
            except OSError as error:
                raise UsageError(f"cannot read model {source.path}: {error.strerror}") from None
            return output
        options = [f"--{name}={value}" for name, value in self._scenario.model_options.items()]
        options += [f"--save-keras={self._keras_model}"] * self._means.saves_keras
        arguments = ["export", *([source.source] if source.source else []), *options, f"--output={output}"]
        made_with = self._work / "export.json"
        if output.exists() and made_with.exists() and json.loads(made_with.read_text()) == arguments:
            return output
        self._screen.line("exporting the model, and checking it in the runtime that phones have ...")
        export = children.start(*arguments)
        while export.is_running():
            self._screen.now(f"{self._wall_sec():.0f} s")
            time.sleep(0.2)
        made_with.write_text(json.dumps(arguments))
        return output

    def _server(self, model: Path) -> SimulatedServer:
        return SimulatedServer(
            data_dir=str(self._work / "server"),
            model=str(model),
            settings=self._run_settings(),
            runtime=self._means.runtime,
            active_sec=self._scenario.server.active_sec,
            pace=dict(self._scenario.server.pace),
        )

    def _run_settings(self) -> dict[str, Any]:
        """Of the run, as in a run file."""
        scenario = self._scenario
        settings: dict[str, Any] = {"seed": scenario.seed, "retention": {"keep_last": KEPT_VERSIONS}}
        settings |= {key: value for key, value in scenario.run.items() if key != "rounds"}
        settings["rounds"] = {"min_devices": max(1, self._num_at_once), **scenario.run.get("rounds", {})}
        if scenario.holdout is not None:
            settings["holdout"] = source_of(scenario.holdout, scenario.folder)
        return settings

    def _identity(self, model: Path) -> dict[str, Any]:
        """What a simulation must have in common with the one that it goes on with."""
        plain = self._scenario.as_json()
        plain.pop("title")
        digest = hashlib.sha256(model.read_bytes()).hexdigest()
        return {
            **plain,
            "model_sha256": digest,
            "runtime": self._means.runtime_name,
            "engine": self._means.engine,
        }

    def _keep_final(self, link: ServerLink, contract: Contract, standing: Standing) -> None:
        path = link.client("result").fetch_weights(standing.weights, max_checkpoint_bytes(contract))
        shutil.copyfile(path, self._output / "final.safetensors")

    def _keep_mean(self, link: ServerLink, contract: Contract, recorder: Recorder) -> list[int]:
        """Writes the mean of the last versions that the server has, if there are two; of which rounds."""
        kept = parse_settings(self._run_settings()).retention.keep_last
        last = last_committed(recorder.rounds, min(kept or KEPT_VERSIONS, KEPT_VERSIONS))
        output = self._output / "mean.safetensors"
        if len(last) < 2:
            output.unlink(missing_ok=True)
            return []
        client, most = link.client("result"), max_checkpoint_bytes(contract)
        versions = (load_checkpoint(client.fetch_weights(done["weights"], most), contract) for done in last)
        try:
            output.write_bytes(checkpoint_bytes(mean_of(versions), contract))
        except RefusedError as error:  # as where an earlier fedfer kept fewer
            self._screen.line(f"no mean of the last {len(last)} versions: {error}")
            output.unlink(missing_ok=True)
            return []
        return [done["round"] for done in last]

    def _mean_record(self, model: Path, rounds: list[int]) -> dict[str, Any] | None:
        if not rounds:
            return None
        path = self._output / "mean.safetensors"
        measures = self._measures(model, path)
        return {"weights": digest_of(path.read_bytes()), "rounds": rounds, "measures": measures}

    def _record(
        self,
        contract: Contract,
        model: Path,
        labels: NDArray[np.uint8],
        fleet: Fleet,
        recorder: Recorder,
        standing: Standing,
        averaged: list[int],
        wall_sec: float,
    ) -> dict[str, Any]:
        scenario, final = self._scenario, self._output / "final.safetensors"
        num_labels, content = len(contract.labels), model.read_bytes()
        counts = [np.bincount(labels[part], minlength=num_labels).tolist() for part in fleet.holdings]
        attack = fleet.attack.kind if fleet.attack else None
        stop = {"reason": standing.stop_reason, "text": standing.stop_text}
        if not standing.is_over:
            stop = {"reason": "target", "text": f"accuracy {scenario.target_accuracy} was reached"}
        return {
            "format": FORMAT,
            "name": scenario.name,
            "title": scenario.title,
            "scenario": scenario.as_json(),
            "toml": scenario.toml,
            "command": self._command,
            "fedfer_version": version("fedfer"),
            "runtime": self._means.runtime_name,
            "engine": self._means.engine,
            "num_processes": self._num_processes,
            "seed": scenario.seed,
            "started_at": self._started_at.isoformat(timespec="seconds").replace("+00:00", "Z"),
            "wall_sec": round(wall_sec, 3),
            "virtual_sec": recorder.rounds[-1]["closed_sec"],
            "model": {
                "name": scenario.model.source or scenario.model.path or "vgg",
                "sha256": hashlib.sha256(content).hexdigest(),
                "contract": contract.digest,
                "num_bytes": len(content),
                "num_parameters": sum(int(np.prod(spec.shape)) for spec in contract.weights),
                "checkpoint_bytes": final.stat().st_size,
                "labels": list(contract.labels),
            },
            "stop": stop,
            "target": target_of(recorder.rounds, scenario.target_accuracy),
            "final": {
                "weights": standing.weights,
                "round": recorder.next_round - 1,
                "measures": self._measures(model, final),
            },
            "mean": self._mean_record(model, averaged),
            "devices": [
                device_record(phone, counts[phone.index], attack if phone.index in fleet.attackers else None)
                for phone in fleet.phones
            ],
            "rounds": recorder.rounds,
            "refusals": dict(recorder.refusals),
            "faults": recorder.faults,
        }

    def _measures(self, model: Path, weights: Path) -> dict[str, Any] | None:
        if self._holdout is None:
            return None
        return asdict(evaluate_apart(model, weights, self._holdout, runtime=self._means.runtime))

    def _require_images(self) -> None:
        """Raises UsageError naming all options that are missing."""
        wanted = {"--data": self._scenario.data, "--holdout-data": self._scenario.holdout}
        missing = [option for option, data in wanted.items() if data is not None and data.source is None]
        if missing:
            raise UsageError(
                f"the scenario names no images; give {' and '.join(f'{o} SOURCE' for o in missing)}"
            )

    def _make_directories(self) -> None:
        try:
            for name in ("logs", "updates", "cache"):
                (self._work / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"cannot write to {self._output}: {error.strerror}; name another --output"
            ) from None

    def _show(self, position: Position, recorder: Recorder, progress: Progress) -> None:
        if position.round_closed:
            done = recorder.rounds[-1]
            left_sec = progress.left_sec(self._seen(position, recorder))
            left = f", {duration(left_sec)} to go" if left_sec else ""
            measured = "" if done["accuracy"] is None else f", accuracy {done['accuracy']:.4f}"
            self._screen.line(
                f"round {done['round']}: {len(done['updates'])} updates{measured}, "
                f"{duration(position.now_sec)} of virtual time{left}"
            )
        progress.update(self._seen(position, recorder))

    def _seen(self, position: Position, recorder: Recorder) -> Seen:
        rounds_done = max(0, recorder.next_round - 1)
        updates = position.num_updates, position.num_clients
        return Seen(self._wall_sec(), rounds_done, *updates, recorder.accuracy)

    def _say_end(self, record: dict[str, Any]) -> None:
        self._screen.line(f"{record['stop']['text']}; written to {self._output}")

    def _wall_sec(self) -> float:
        return time.monotonic() - self._started


class _Aggregator:
    """The aggregator in a process of its own."""

    def __init__(self, children: Children, server: SimulatedServer, config: Path) -> None:
        self._children, self._server, self._config = children, server, config
        self._start()

    def restart(self) -> None:
        """Kills it, and starts another on the same port and directory."""
        self._child.kill()
        self._server = replace(self._server, port=int(self.url.rpartition(":")[2]))
        self._start()

    def _start(self) -> None:
        self._config.write_text(json.dumps(asdict(self._server)))
        self._child = self._children.start_module("fedfer.cli.simulated_server", str(self._config))
        self.url = wait_for_line(self._child, "serving on ", READY_SEC).rpartition(" ")[2]


def fleet_of(scenario: Scenario, holdings: list[NDArray[np.intp]]) -> Fleet:
    """The phones with their profiles, and who of them attacks. Raises UsageError."""
    trace = None if scenario.trace is None else scenario.folder / scenario.trace
    profiles = fleet_profiles(scenario.profiles, trace, len(holdings), scenario.seed)
    phones = [
        Phone(index, f"phone-{index}", len(part), profile)
        for index, (part, profile) in enumerate(zip(holdings, profiles, strict=True))
    ]
    attack = attack_settings(scenario.attack) if scenario.attack else None
    who = attackers(attack, len(phones), scenario.seed) if attack else frozenset()
    needed_mb, most = scenario.model.memory_mb, max(profile.memory_bytes for profile in profiles)
    if needed_mb * 1e6 > most:
        raise UsageError(
            f"model: memory_mb is {needed_mb:g}, and no device has more than {most / 1e6:g}: none could train"
        )
    return Fleet(scenario.seed, phones, holdings, attack, who, needed_mb * 1e6)


def partition_of(scenario: Scenario, images: LabelledImages) -> list[NDArray[np.intp]]:
    """Who holds which images. Raises UsageError."""
    return partition(
        images.labels, scenario.num_devices, scenario.partition, owners=images.owners, seed=scenario.seed
    )


def source_of(data: DataSource, folder: Path) -> dict[str, Any]:
    """What `load_images` takes."""
    assert data.source is not None  # refused before
    return {**vars(data), "source": resolved(data.source, folder)}
