"""Processes that run training tasks, the most urgent first.

A process that dies (out of memory, killed) is replaced and its task run again: tasks are pure functions, so
nothing but time is lost. A task that takes its process with it three times is given up.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection as PipeEnd
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from typing import Protocol

from fedfer.android_stub.processes import exit_with_parent, start_process, stop_process
from fedfer.android_stub.simulation.jobs import MAX_DEATHS, Job, Jobs, Ticket
from fedfer.android_stub.simulation.tasks import Bench, BenchSettings, Task, TaskResult
from fedfer.model.errors import FedferError, InterpreterError

STOP_SEC = 2.0


class Workable(Protocol):
    """What runs tasks in a process: a `Bench`."""

    def run(self, task: Task) -> TaskResult: ...


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: PipeEnd
    job: Job | None = None


class ProcessPool:
    """`num_processes` processes, fed by a thread, so that none waits for who submits."""

    def __init__(
        self,
        settings: BenchSettings,
        num_processes: int,
        make_bench: Callable[[BenchSettings], Workable] = Bench,
    ) -> None:
        self._settings, self._make_bench = settings, make_bench
        self.size = num_processes
        self._jobs = Jobs()
        self._woken, self._wake = Pipe(duplex=False)
        self._closing = False
        self._workers = [self._start() for _ in range(num_processes)]
        self._thread = threading.Thread(target=self._feed, name="pool", daemon=True)
        self._thread.start()

    def submit(self, task: Task, urgency: float) -> Ticket:
        job = self._jobs.add(task, urgency)
        self._wake.send(None)
        return job

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
            if worker.job is None and (job := self._jobs.next()) is not None:
                worker.job = job
                try:
                    worker.pipe.send(job.task)
                except OSError:
                    self._replace(worker)

    def _take(self, worker: _Worker, answer: TaskResult | FedferError) -> None:
        job, worker.job = worker.job, None
        assert job is not None
        job.end(answer)

    def _replace(self, dead: _Worker) -> None:
        dead.process.join()
        dead.pipe.close()
        self._workers[self._workers.index(dead)] = self._start()
        if dead.job is not None:
            error = InterpreterError(
                f"the process of {dead.job.task.device} died {MAX_DEATHS} times, last with exit code "
                f"{dead.process.exitcode}: out of memory, or a crash in the runtime; try fewer --processes"
            )
            self._jobs.died(dead.job, error)


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
