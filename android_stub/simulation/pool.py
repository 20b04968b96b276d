"""Processes that run training tasks, the most urgent first; and what any such pool can do.

A process that dies (out of memory, killed) is replaced and its task run again: tasks are pure functions, so
nothing but time is lost. A task that takes its process with it three times is given up.
"""

import heapq
import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection as PipeEnd
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from typing import Literal, Protocol

from fedfer.android_stub.processes import exit_with_parent, start_process, stop_process
from fedfer.android_stub.simulation.tasks import Bench, BenchSettings, Task, TaskResult
from fedfer.model.errors import FedferError, InterpreterError

MAX_DEATHS = 3
STOP_SEC = 2.0


class Workable(Protocol):
    """What runs tasks in a process: a `Bench`."""

    def run(self, task: Task) -> TaskResult: ...


class Ticket(Protocol):
    """A task that was handed in."""

    def result(self) -> TaskResult:
        """Waits for it. Raises the FedferError that the task ended with."""

    def cancel(self) -> bool:
        """Takes the task back; False if it has been begun, and then its result can still be had."""


class Executor(Protocol):
    """Whoever runs tasks."""

    def submit(self, task: Task, urgency: float) -> Ticket:
        """The least `urgency` is run first."""

    def close(self) -> None: ...


@dataclass
class _Job:
    """A task in the pool, seen from both threads under the pool's lock."""

    task: Task
    done: threading.Event = field(default_factory=threading.Event)
    result: TaskResult | None = None
    error: FedferError | None = None
    deaths: int = 0
    state: Literal["waiting", "begun", "cancelled"] = "waiting"


class _JobTicket:
    def __init__(self, job: _Job, lock: threading.Lock) -> None:
        self._job, self._lock = job, lock

    def result(self) -> TaskResult:
        self._job.done.wait()
        if self._job.error is not None:
            raise self._job.error
        assert self._job.result is not None
        return self._job.result

    def cancel(self) -> bool:
        with self._lock:
            if self._job.state == "waiting":
                self._job.state = "cancelled"
            return self._job.state == "cancelled"


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: PipeEnd
    job: _Job | None = None


class ProcessPool:
    """`num_processes` processes, fed by a thread, so that none waits for who submits."""

    def __init__(
        self,
        settings: BenchSettings,
        num_processes: int,
        make_bench: Callable[[BenchSettings], Workable] = Bench,
    ) -> None:
        self._settings, self._make_bench = settings, make_bench
        self._lock = threading.Lock()
        self._waiting: list[tuple[float, int, _Job]] = []
        self._count = itertools.count()
        self._woken, self._wake = Pipe(duplex=False)
        self._closing = False
        self._workers = [self._start() for _ in range(num_processes)]
        self._thread = threading.Thread(target=self._feed, name="pool", daemon=True)
        self._thread.start()

    def submit(self, task: Task, urgency: float) -> Ticket:
        job = _Job(task)
        with self._lock:
            heapq.heappush(self._waiting, (urgency, next(self._count), job))
        self._wake.send(None)
        return _JobTicket(job, self._lock)

    def close(self) -> None:
        """Ends the processes, whatever they do."""
        self._closing = True
        self._wake.send(None)
        self._thread.join()
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            stop_process(worker.process, STOP_SEC)
            worker.pipe.close()

    def _start(self) -> _Worker:
        return _Worker(*start_process(work, self._make_bench, self._settings, duplex=True))

    def _feed(self) -> None:
        """The thread: takes results, replaces the dead, hands out what is most urgent."""
        while not self._closing:
            self._hand_out()
            for ready in wait([self._woken, *(worker.pipe for worker in self._workers)]):
                if ready is self._woken:
                    self._woken.recv()
                    continue
                worker = next(worker for worker in self._workers if worker.pipe is ready)
                try:
                    self._take(worker, worker.pipe.recv())
                except (EOFError, OSError):
                    self._replace(worker)

    def _hand_out(self) -> None:
        for worker in self._workers:
            if worker.job is None and (job := self._next()) is not None:
                worker.job = job
                try:
                    worker.pipe.send(job.task)
                except OSError:
                    self._replace(worker)

    def _next(self) -> _Job | None:
        with self._lock:
            while self._waiting:
                job = heapq.heappop(self._waiting)[2]
                if job.state != "cancelled":
                    job.state = "begun"
                    return job
        return None

    def _take(self, worker: _Worker, answer: TaskResult | FedferError) -> None:
        job, worker.job = worker.job, None
        assert job is not None
        if isinstance(answer, FedferError):
            job.error = answer
        else:
            job.result = answer
        job.done.set()

    def _replace(self, dead: _Worker) -> None:
        dead.process.join()
        dead.pipe.close()
        self._workers[self._workers.index(dead)] = self._start()
        job = dead.job
        if job is None:
            return
        job.deaths += 1
        if job.deaths >= MAX_DEATHS:
            job.error = InterpreterError(
                f"the process of {job.task.device} died {MAX_DEATHS} times, last with exit code "
                f"{dead.process.exitcode}: out of memory, or a crash in the runtime; try fewer --processes"
            )
            job.done.set()
            return
        with self._lock:
            heapq.heappush(self._waiting, (float("-inf"), next(self._count), job))


def work(make_bench: Callable[[BenchSettings], Workable], settings: BenchSettings, pipe: PipeEnd) -> None:
    """The body of a process: answers each task with its result or its FedferError."""
    exit_with_parent()
    bench = make_bench(settings)
    while True:
        try:
            task: Task = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(bench.run(task))
        except FedferError as error:
            pipe.send(error)
