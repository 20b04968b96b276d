"""An aggregator without HTTP, in this process: runs, phones, uploads. No interpreter is loaded here."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from postgres import database_url
from waiting import wait_for

from fedfer.aggregator.config import RoundSettings, RunConfig, RunSettings, ServerConfig
from fedfer.aggregator.device_store import Device
from fedfer.aggregator.metrics import Metrics
from fedfer.aggregator.opening import running_service
from fedfer.aggregator.rounds import Update
from fedfer.aggregator.runs import Run
from fedfer.aggregator.service import Service
from fedfer.aggregator.work import Report, Upload, Work
from fedfer.export.checkpoint import Weights, checkpoint_bytes, digest_of
from fedfer.export.contract import Contract


@dataclass
class Phone:
    """A device that trains nothing and sends what it is told to."""

    run: Run
    device: Device

    def work(self) -> Work:
        return self.run.work(self.device)

    def send(self, work: Work, body: bytes, num_examples: int = 5) -> Update:
        """As the HTTP call does it."""
        number, base = work.round_.number, work.round_.base.weights
        self.run.check_upload(self.device, number, base)
        path = self.run.blobs.temporary_path()
        path.write_bytes(body)
        upload = Upload(path, digest_of(body), len(body))
        try:
            earlier = self.run.repeated(self.device, number, upload)
            if earlier is not None:
                return earlier
            self.run.check_content(upload)
            report = Report(base, num_examples, 1.5, 0.25, None)
            return self.run.accept(self.device, number, upload, report)
        finally:
            path.unlink(missing_ok=True)


@dataclass
class Party:
    """A run called `default`, and how to enrol phones for it."""

    service: Service
    run: Run

    def phones(self, *names: str) -> list[Phone]:
        return [Phone(self.run, self.service.enrol(name, None).device) for name in names]

    def round_trip(self, phones: list[Phone], bodies: list[bytes]) -> str:
        """Every phone works and sends; returns what the round ended with."""
        number = self.run.round_.number
        for phone, body in zip(phones, bodies, strict=True):
            phone.send(phone.work(), body)
        self.wait_for_end_of(number)
        return str(self.run.rounds.rows(number)[0]["result_weights"])

    def wait_for_end_of(self, number: int) -> None:
        wait_for(lambda: self.run.round_.number > number or self.run.is_over)


@contextmanager
def party(
    model: Path,
    data_dir: Path,
    settings: RunSettings,
    initial_weights: Path | None = None,
    metrics: Metrics | None = None,
) -> Iterator[Party]:
    runs = (RunConfig(model, initial_weights=initial_weights, settings=settings),)
    config = ServerConfig(data_dir, runs, database_url=database_url(data_dir))
    with running_service(config, metrics) as service:
        yield Party(service, service.run("default"))


def rounds_of(num_clients: int, **more: object) -> RoundSettings:
    """As many places as updates."""
    return RoundSettings(num_clients, **{"over_selection": 1.0, **more})  # type: ignore[arg-type]


def one_class(contract: Contract, label: int, strength: float = 5.0) -> bytes:
    """A model that always says this label: nothing but the last bias differs from zero."""
    weights: Weights = {w.name: np.zeros(w.shape, np.float32) for w in contract.weights}
    (bias,) = [w.name for w in contract.weights if w.shape == (len(contract.labels),)]
    weights[bias][label] = strength
    return checkpoint_bytes(weights, contract)
