"""N emulated phones over P processes: started, watched, stopped together.

Each process gets the images of its own devices and holds one interpreter. If a device gives up or a
process dies, all are stopped: a fleet either finishes or says why not.
"""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess

from fedfer.android_stub.cache import Cache
from fedfer.android_stub.connection import check_url
from fedfer.android_stub.device import DeviceSpec
from fedfer.android_stub.device_files import devices_directory, held
from fedfer.android_stub.events import Event, Failed, Finished, Note
from fedfer.android_stub.processes import start_process, stop_process
from fedfer.android_stub.summary import FleetSummary, Tally
from fedfer.android_stub.worker import WorkerSettings, run_worker
from fedfer.model.data import LabelledImages
from fedfer.model.errors import FedferError, InterpreterError, UsageError

STOP_SEC = 5.0  # between asking a process to end and ending it


@dataclass
class _Worker:
    process: SpawnProcess
    events: Pipe
    unfinished: set[str]  # names of devices


def run_fleet(
    settings: WorkerSettings,
    holdings: Sequence[LabelledImages],
    num_processes: int,
    on_event: Callable[[Event], None],
) -> FleetSummary:
    """Runs device i on `holdings[i]` until the server says stop; `on_event` is called as things happen.

    Raises UsageError, the FedferError of a device that gave up, InterpreterError for a process that died.
    """
    specs = [DeviceSpec(f"phone-{index}", index, images) for index, images in enumerate(holdings)]
    _check(settings, specs, num_processes)
    workers: list[_Worker] = []
    with _holding_devices(settings, on_event) as settings:
        try:
            for turn in range(min(num_processes, len(specs))):
                workers.append(_start(settings, specs[turn::num_processes]))
            return _watch(workers, on_event).summary(len(specs))
        finally:
            _stop(workers)


@contextmanager
def _holding_devices(settings: WorkerSettings, on_event: Callable[[Event], None]) -> Iterator[WorkerSettings]:
    """The settings, without `keeps_devices` while another fleet has the devices of this cache."""
    if not settings.keeps_devices:
        yield settings
        return
    with held(devices_directory(Cache(settings.cache_dir), settings.server_url)) as is_ours:
        if not is_ours:
            text = f"another fleet has the phones of {settings.cache_dir}; these are new ones, kept nowhere"
            on_event(Note("fleet", text))
        yield replace(settings, keeps_devices=is_ours)


@contextmanager
def ending_on_signals() -> Iterator[None]:
    """Turns SIGTERM and SIGHUP into SystemExit(128 + number): a fleet stops its processes on its way out.

    One that was ignored, as nohup has it, stays so.
    """

    def end(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second one does not break off the tidying up
        raise SystemExit(128 + number)

    former = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    before = {number: handler for number, handler in former.items() if handler is not signal.SIG_IGN}
    try:
        for number in before:
            signal.signal(number, end)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check(settings: WorkerSettings, specs: Sequence[DeviceSpec], num_processes: int) -> None:
    """Says here, once, what would otherwise fail in every process."""
    check_url(settings.server_url)
    Cache(settings.cache_dir)
    if not specs or num_processes < 1:
        raise UsageError(
            f"{len(specs)} devices over {num_processes} processes; expected at least one of each"
        )
    for spec in specs:
        if len(spec.examples) == 0:
            raise UsageError(f"{spec.name} would hold no images; expected at least one for every device")


def _start(settings: WorkerSettings, specs: Sequence[DeviceSpec]) -> _Worker:
    process, events = start_process(run_worker, settings, specs, duplex=False)
    return _Worker(process, events, {spec.name for spec in specs})


def _watch(workers: Sequence[_Worker], on_event: Callable[[Event], None]) -> Tally:
    """Passes events on until every process has ended well. Raises FedferError as `run_fleet` says."""
    running = {worker.events: worker for worker in workers}
    tally = Tally()
    while running:
        for ready in wait(list(running)):
            worker = running[ready]  # type: ignore[index]
            try:
                event: Event = worker.events.recv()
            except (EOFError, OSError):  # OSError: it died in the middle of one
                del running[worker.events]
                _check_ended_well(worker)
                continue
            if isinstance(event, Failed):
                raise _named(event)
            if isinstance(event, Finished):
                worker.unfinished.discard(event.device)
            tally.add(event)
            on_event(event)
    return tally


def _check_ended_well(worker: _Worker) -> None:
    worker.process.join()
    if worker.process.exitcode != 0 or worker.unfinished:
        devices = ", ".join(sorted(worker.unfinished)) or "devices that had finished"
        raise InterpreterError(
            f"the process of {devices} died with exit code {worker.process.exitcode}: "
            "out of memory, or a crash in the runtime; try fewer --processes"
        )


def _named(event: Failed) -> FedferError:
    """The device's error, saying which device it was."""
    event.error.args = (f"{event.device}: {event.error}",)
    return event.error


def _stop(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        if worker.process.is_alive():
            worker.process.terminate()
    for worker in workers:
        stop_process(worker.process, STOP_SEC)
        worker.events.close()
