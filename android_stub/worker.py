"""One process of a fleet: drives its devices in turn, the one that is due first, and sends their events.

It ends when all its devices have finished, when one cannot go on, and when its parent is gone.
"""

import heapq
import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Protocol

from fedfer.android_stub.backoff import RetryPolicy
from fedfer.android_stub.cache import Cache
from fedfer.android_stub.client import AggregatorClient
from fedfer.android_stub.connection import Connection, Retrying, open_http
from fedfer.android_stub.device import Device, DeviceSpec
from fedfer.android_stub.device_files import DeviceFiles, devices_directory, sharing
from fedfer.android_stub.events import Event, Failed, Note
from fedfer.android_stub.processes import exit_with_parent
from fedfer.android_stub.workbench import Workbench
from fedfer.export.engines import EngineChoice
from fedfer.model.errors import FedferError


class Steppable(Protocol):
    """What `drive` needs of a device."""

    name: str

    def step(self) -> float | None: ...


@dataclass(frozen=True)
class WorkerSettings:
    """What every process of a fleet is told."""

    server_url: str
    cache_dir: Path
    engine: EngineChoice
    seed: int
    retry: RetryPolicy
    run: str | None = None
    enrol_key: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    keeps_devices: bool = False  # in the cache directory, for the next process: token and progress


def run_worker(settings: WorkerSettings, specs: Sequence[DeviceSpec], events: Pipe) -> None:
    """The body of a process: sends events until it ends; the last one is Failed if a device gave up."""
    exit_with_parent()
    workbench = Workbench(Cache(settings.cache_dir), settings.engine)
    with ExitStack() as stack:
        http = stack.enter_context(open_http(settings.server_url, ca_file=settings.ca_file))
        kept: Path | None = None
        if settings.keeps_devices:
            kept = devices_directory(workbench.cache, settings.server_url)
            stack.enter_context(sharing(kept))
        devices = []
        for spec in specs:
            connection = Connection(http, _retrying(settings, spec, events.send))
            client = AggregatorClient(connection, workbench.cache, settings.enrol_key)
            files = None if kept is None else DeviceFiles(kept, spec.name)
            devices.append(Device(spec, settings.seed, client, workbench, events.send, settings.run, files))
        drive(devices, events.send, time.monotonic, time.sleep)


def drive(
    devices: Sequence[Steppable],
    report: Callable[[Event], None],
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> None:
    """Steps the device that is due first until all have finished, or one fails (reported, then the end)."""
    due = [(0.0, turn) for turn in range(len(devices))]  # (moment, device), a heap
    while due:
        moment, turn = heapq.heappop(due)
        if (early_sec := moment - clock()) > 0:
            sleep(early_sec)
        try:
            pause_sec = devices[turn].step()
        except FedferError as error:
            report(Failed(devices[turn].name, error))
            return
        if pause_sec is not None:
            heapq.heappush(due, (clock() + pause_sec, turn))


def _retrying(settings: WorkerSettings, spec: DeviceSpec, report: Callable[[Event], None]) -> Retrying:
    return Retrying(
        policy=settings.retry,
        rng=random.Random(f"{settings.seed}/{spec.index}"),
        clock=time.monotonic,
        sleep=time.sleep,
        on_pause=lambda text: report(Note(spec.name, text)),
    )
