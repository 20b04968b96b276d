"""Tasks on a Ray cluster: actors on every machine, to which model, weights and images are shipped once.

An actor holds one engine and runs one task at a time, handed out here, the most urgent first. A task whose
actor or machine is lost is run again by another: tasks are pure functions, so nothing but time is lost.
Ray is an extra (`pip install 'fedfer[ray]'`) and imported when it is used.
"""

import os
import queue
import signal
import socket
import threading
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fedfer.android_stub.simulation.jobs import MAX_DEATHS, Job, Jobs, Ticket
from fedfer.android_stub.simulation.ray_bench import RemoteBench, versions
from fedfer.android_stub.simulation.tasks import BenchSettings, Task, load_data
from fedfer.model.errors import FedferError, InterpreterError, UsageError, first_line

LOCAL = "local"
REACH_SEC = 10.0  # for a cluster to take a connection
START_SEC = 120.0  # for the first actor
KEPT_FILES = 8  # versions of weights in the cluster, and the model
# Of a local cluster, beside the images: a few checkpoints a process.
OBJECT_STORE_BYTES = 512 * 2**20
# Nothing is sent to Ray's makers, and a local cluster listens for its own machine only: whoever reaches a
# cluster can run programs on it. (Ray knows the second setting by this name on every system.)
ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0"}
LOCAL_ENVIRONMENT = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


@dataclass
class _Actor:
    """`is_ready` once it has answered."""

    handle: Any
    is_ready: bool = False
    job: Job | None = None


class RayPool:
    """`num_actors` at most, as many as the cluster has processors for; of a local cluster so many."""

    def __init__(self, settings: BenchSettings, address: str, num_actors: int | None) -> None:
        """Connects to the cluster at `address`, or starts one on this machine for "local".

        Raises UsageError without Ray or cluster, InterpreterError when no actor can be started.
        """
        images = load_data(settings.data)
        self._ray = connect(address, num_actors, images.images.nbytes + OBJECT_STORE_BYTES)
        self._settings, self._is_local = settings, address == LOCAL
        self._data = [self._ray.put(np.array(a)) for a in (images.images, images.labels)]
        self._files: OrderedDict[Path, Any] = OrderedDict()
        self._jobs = Jobs()
        self._events: queue.SimpleQueue[tuple[_Actor, Future[Any]] | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._started = threading.Event()
        self._failed_starts = 0
        self._fatal: FedferError | None = None
        self.size = num_actors or int(self._ray.cluster_resources().get("CPU", 1))
        self._actors = [self._start() for _ in range(self.size)]
        self._thread = threading.Thread(target=self._feed, name="ray", daemon=True)
        self._thread.start()
        if not self._started.wait(START_SEC) or self._fatal is not None:
            self.close()
            raise self._fatal or InterpreterError(
                f"the Ray cluster gave no processor within {START_SEC:.0f} s; expected one that is free"
            )

    def submit(self, task: Task, urgency: float) -> Ticket:
        job = self._jobs.add(task, urgency)
        self._events.put(None)
        return job

    def close(self) -> None:
        """Ends the actors, whatever they do, and leaves the cluster; a local one ends."""
        self._closing.set()
        self._events.put(None)
        self._thread.join()
        for actor in self._actors:
            self._ray.kill(actor.handle)
        self._ray.shutdown()

    def _start(self) -> _Actor:
        kind = self._ray.remote(RemoteBench).options(num_cpus=1)
        actor = _Actor(kind.remote(self._settings, *self._data, self._ray.get))
        self._expect(actor, actor.handle.versions.remote())
        return actor

    def _expect(self, actor: _Actor, reference: Any) -> None:
        """Lets the thread know when the actor has answered."""
        future: Future[Any] = reference.future()
        future.add_done_callback(lambda done: self._events.put((actor, done)))

    def _feed(self) -> None:
        """The thread: takes answers, replaces the lost, hands out what is most urgent."""
        while not self._closing.is_set():
            event = self._events.get()
            if event is not None and event[0] in self._actors:
                self._take(*event)
            self._hand_out()

    def _hand_out(self) -> None:
        while self._fatal is not None and (job := self._jobs.next()) is not None:
            job.end(self._fatal)
        for actor in self._actors:
            if actor.is_ready and actor.job is None and (job := self._jobs.next()) is not None:
                actor.job = job
                files = [[self._file(job.task.model)], [self._file(job.task.weights)]]
                self._expect(actor, actor.handle.run.remote(self._as_sent(job), *files))

    def _as_sent(self, job: Job) -> Task:
        """A task that is killed on purpose is gone on with from its file if that is on this machine; if
        not, it is killed once and begun anew."""
        task = job.task
        if self._is_local or task.killing is None:
            return task
        killing = None if job.deaths else replace(task.killing, progress=Path(task.killing.progress.name))
        return replace(task, killing=killing)

    def _file(self, path: Path) -> Any:
        """A file's bytes as an object of the cluster. (Files are named by their content.)"""
        if path not in self._files:
            self._files[path] = self._ray.put(path.read_bytes())
        self._files.move_to_end(path)
        while len(self._files) > KEPT_FILES:
            self._files.popitem(last=False)
        return self._files[path]

    def _take(self, actor: _Actor, answer: "Future[Any]") -> None:
        error = answer.exception()
        if not actor.is_ready:
            self._take_start(actor, error, None if error else answer.result())
            return
        job, actor.job = actor.job, None
        assert job is not None
        if error is None:
            _end(job, answer.result())
        elif isinstance(error, self._ray.exceptions.RayTaskError):
            job.end(InterpreterError(f"a Ray actor failed with {job.task.device}: {_last_line(error)}"))
        else:  # the actor, its machine or the answer's only copy is lost
            self._replace(actor)
            reason = f"the Ray actors of {job.task.device} died {MAX_DEATHS} times: {first_line(error)}"
            self._jobs.died(job, InterpreterError(reason))

    def _take_start(self, actor: _Actor, error: BaseException | None, theirs: dict[str, str] | None) -> None:
        if error is None and theirs == versions():
            actor.is_ready, self._failed_starts = True, 0
            self._started.set()
            return
        self._failed_starts += 1
        if error is None or self._failed_starts >= MAX_DEATHS * len(self._actors):
            what = f"actors cannot be started: {first_line(error)}" if error else f"one machine has {theirs}"
            self._fatal = InterpreterError(
                f"the Ray cluster: {what}; expected {versions()} on every machine, as on this one"
            )
            self._started.set()
        else:
            self._replace(actor)

    def _replace(self, lost: _Actor) -> None:
        self._ray.kill(lost.handle)
        self._actors[self._actors.index(lost)] = self._start()


def connect(address: str, num_actors: int | None, object_store_bytes: int) -> Any:
    """The module `ray`, connected. Raises UsageError."""
    os.environ.update(ENVIRONMENT | (LOCAL_ENVIRONMENT if address == LOCAL else {}))
    try:
        import ray
    except ModuleNotFoundError:
        raise UsageError("--ray needs Ray; install it: pip install 'fedfer[ray]'") from None
    _check_reachable(address)
    on_terminate = signal.getsignal(signal.SIGTERM)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address == LOCAL:
            ray.init(
                num_cpus=num_actors,
                include_dashboard=False,
                object_store_memory=object_store_bytes,
                **quiet,
            )
        else:
            ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise _unreachable(address, error) from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_terminate)  # Ray's own handler ends the program its way
    return ray


def _check_reachable(address: str) -> None:
    """Ray itself goes on trying for minutes. Raises UsageError."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal()):
        return
    try:
        socket.create_connection((host, int(port)), REACH_SEC).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, error) from None


def _unreachable(address: str, error: Exception) -> UsageError:
    return UsageError(
        f"no Ray cluster answers at {address} ({first_line(error)}); expected an address as `ray start "
        f"--head` prints it, or `{LOCAL}`"
    )


def _end(job: Job, answer: Any) -> None:
    """Puts the update where the task wants it."""
    if isinstance(answer, FedferError):
        job.end(answer)
        return
    result, data = answer
    job.task.output.write_bytes(data)
    job.end(result)


def _last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:300]
