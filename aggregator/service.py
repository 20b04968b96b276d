"""The aggregator without HTTP: devices, and which run each of them works for.

Methods block (disk, database): call them from worker threads. Killed at any moment, a new service on the
same directory goes on where the store is.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

from fedfer.aggregator.config import RunConfig, ServerConfig
from fedfer.aggregator.device_store import Device
from fedfer.aggregator.enrolment import Enrolled, Enrolment
from fedfer.aggregator.run_opening import keep_model
from fedfer.aggregator.runs import Run
from fedfer.aggregator.store import Store
from fedfer.aggregator.work import Upload, Work
from fedfer.export.contract import Contract, load_model_bytes, read_contract
from fedfer.model.errors import ModelFileError, RefusedError, StoreError


class Service:
    """State of a running aggregator: its runs by name, oldest first."""

    def __init__(
        self,
        config: ServerConfig,
        store: Store,
        clock: Callable[[], float],
        runs: Iterable[Run],
        open_new: Callable[[RunConfig], Run],
    ) -> None:
        """`open_new` stores a run and brings it to life."""
        self.config, self.store, self.clock = config, store, clock
        self.runs = {run.name: run for run in runs}
        self._enrolment = Enrolment(store.devices, clock, config.token_days, config.max_devices)
        self.closing_problems: Callable[[], Mapping[str, str]] = dict  # by run: why a round cannot be closed
        self._open_new, self._adding = open_new, threading.Lock()

    # Devices

    def enrol(self, name: str, contract: str | None, last_token: str | None = None) -> Enrolled:
        """A device for a model that is served. Raises RefusedError, StoreError."""
        served = sorted({run.contract.digest for run in self.runs.values()})
        if contract is not None and contract not in served:
            raise RefusedError(
                f"device has contract {contract}; this aggregator serves {', '.join(served) or 'none yet'}",
                code="wrong_model",
                status=409,
            )
        return self._enrolment.enrol(name, contract, last_token)

    def authenticate(self, token: str) -> Device:
        """The device that this token was given to. Raises RefusedError, StoreError."""
        device = self._enrolment.authenticate(token)
        self.store.devices.see(device.id, self.clock())
        return device

    def recognise(self, token: str) -> Device | None:
        """`authenticate` without waiting for anything; None if that cannot be."""
        device = self._enrolment.recognise(token)
        if device is not None:
            self.store.devices.see(device.id, self.clock())
        return device

    def revoke(self, device_id: str) -> None:
        """Raises RefusedError, StoreError."""
        self._enrolment.revoke(device_id)

    # Runs

    def run(self, name: str) -> Run:
        """Raises RefusedError."""
        found = self.runs.get(name)
        if found is None:
            raise RefusedError(f"no run {ascii(name)[:80]} here", code="unknown_run", status=404)
        return found

    def work(self, device: Device, name: str | None) -> tuple[Run, Work]:
        """What the device is to do in this run, or in the one that needs it most. Raises RefusedError,
        StoreError."""
        found = self._work(device, name, lambda run: run.work(device))
        assert found is not None
        return found

    def settled_work(self, device: Device, name: str | None) -> tuple[Run, Work] | None:
        """`work` without waiting for anything; None if that cannot be. Raises RefusedError."""
        return self._work(device, name, lambda run: run.settled_work(device))

    def _work(
        self, device: Device, name: str | None, ask: Callable[[Run], Work | None]
    ) -> tuple[Run, Work] | None:
        if name is None:
            return choose_work([run for run in self.runs.values() if run.fits(device)], device, ask)
        run = self.run(name)
        work = ask(run)
        return None if work is None else (run, work)

    def add_run(self, config: RunConfig) -> Run:
        """A new run, open for devices. Raises FedferError."""
        with self._adding:
            if len(self.runs) >= self.config.max_runs:
                raise RefusedError(
                    f"there are {len(self.runs)} runs, as many as this aggregator takes",
                    code="too_many_runs",
                    status=409,
                )
            run = self._open_new(config)
            self.runs = {**self.runs, run.name: run}
        return run

    # Files

    def keep_model(self, upload: Upload, sha256: str) -> Contract:
        """Stores a `.tflite` that runs may then use. Raises RefusedError, StoreError."""
        if upload.sha256 != sha256:
            raise RefusedError(f"the body's sha256 is {upload.sha256}; expected {sha256}", code="bad_digest")
        try:
            model = load_model_bytes(upload.path)
            contract = read_contract(model)
        except ModelFileError as error:
            raise RefusedError(str(error), code="bad_model", status=422) from None
        try:
            keep_model(model, contract, self.store, self.clock())
        except OSError as error:
            raise StoreError(f"cannot keep a model: {error.strerror}") from None
        return contract

    @property
    def max_upload_bytes(self) -> int:
        """Of the largest checkpoint that any run takes."""
        return max((run.max_upload_bytes for run in self.runs.values()), default=0)

    def file_of(self, kind: str, name: str) -> Path:
        """A run's model or a version of one by its sha256. Raises RefusedError, StoreError."""
        if not any(True for _ in self._holders(kind, name)):
            raise RefusedError(f"no {kind} {name} here", code=f"unknown_{kind}", status=404)
        blobs = self.store.blobs
        return blobs.present(blobs.model_path(name) if kind == "model" else blobs.version_path(name))

    def open_file(self, kind: str, name: str) -> BinaryIO:
        """The same, open: all of it can be read, whatever is deleted meanwhile. Raises RefusedError,
        StoreError."""
        path = self.file_of(kind, name)
        try:
            return path.open("rb", buffering=0)
        except OSError as error:
            self.file_of(kind, name)  # a version that was dropped at this moment is one that is not here
            raise StoreError(f"cannot read {path.name}: {error.strerror}") from None

    def count_download(self, kind: str, name: str, num_bytes: int) -> None:
        """Adds to bytes_down of the open round of the first run that serves the file. Raises StoreError."""
        for run in self._holders(kind, name):
            if num_bytes and not run.is_over:
                run.count_download(num_bytes)
                return

    def _holders(self, kind: str, name: str) -> Iterable[Run]:
        for run in self.runs.values():
            if (kind == "model" and run.model == name) or (kind == "weights" and run.versions.has(name)):
                yield run


def choose_work(
    runs: list[Run], device: Device, ask: Callable[[Run], Work | None]
) -> tuple[Run, Work] | None:
    """Work in the run that the device already works for, else in the least filled one that has a place.

    Without a place anywhere: the wait or stop of the run that has the most of its updates still to come; a
    stop only if all runs are over. None if a run that was asked does not say. Raises RefusedError if there is
    no run.
    """
    if not runs:
        raise RefusedError("no run here fits this device; ask later", code="unknown_run", status=404)
    going_on = [run for run in runs if not run.is_over] or runs
    going_on.sort(key=lambda run: (not run.has_place(device), run.filled))
    answers = []
    for run in going_on:
        work = ask(run)
        if work is None:
            return None
        if work.wait_reason is None and work.final_weights is None:
            return run, work
        answers.append((run, work))
    return next((answer for answer in answers if answer[1].wait_reason is not None), answers[0])
