"""Tasks on their way through whoever runs them: handed in, waiting by urgency, begun, done or taken back."""

import heapq
import itertools
import threading
from dataclasses import dataclass, field
from typing import Literal, Protocol

from fedfer.android_stub.simulation.tasks import Task, TaskResult
from fedfer.model.errors import FedferError

MAX_DEATHS = 3  # of processes with the same task, before it is given up


class Ticket(Protocol):
    """A task that was handed in."""

    def result(self) -> TaskResult:
        """Waits for it. Raises the FedferError that the task ended with."""

    def cancel(self) -> bool:
        """Takes the task back; False if it has been begun, and then its result can still be had."""


class Executor(Protocol):
    """Whoever runs tasks, `size` at a time."""

    size: int

    def submit(self, task: Task, urgency: float) -> Ticket:
        """The least `urgency` is run first."""

    def close(self) -> None: ...


@dataclass
class Job:
    """A task, seen from who handed it in and from who runs it, under the lock of its `Jobs`."""

    task: Task
    lock: threading.Lock
    done: threading.Event = field(default_factory=threading.Event)
    outcome: TaskResult | FedferError | None = None
    deaths: int = 0
    state: Literal["waiting", "begun", "cancelled"] = "waiting"

    def result(self) -> TaskResult:
        self.done.wait()
        if isinstance(self.outcome, FedferError):
            raise self.outcome
        assert self.outcome is not None
        return self.outcome

    def cancel(self) -> bool:
        with self.lock:
            if self.state == "waiting":
                self.state = "cancelled"
            return self.state == "cancelled"

    def end(self, outcome: TaskResult | FedferError) -> None:
        self.outcome = outcome
        self.done.set()


class Jobs:
    """Those that wait, the most urgent first. Safe for use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[tuple[float, int, Job]] = []
        self._count = itertools.count()

    def add(self, task: Task, urgency: float) -> Job:
        job = Job(task, self._lock)
        self._push(job, urgency)
        return job

    def next(self) -> Job | None:
        """The most urgent, begun now; None if there is none."""
        with self._lock:
            while self._waiting:
                job = heapq.heappop(self._waiting)[2]
                if job.state != "cancelled":
                    job.state = "begun"
                    return job
        return None

    def died(self, job: Job, error: FedferError) -> None:
        """Its process is gone: it comes before all others, or ends with the error when it has been so
        MAX_DEATHS times."""
        job.deaths += 1
        if job.deaths >= MAX_DEATHS:
            job.end(error)
        else:
            self._push(job, float("-inf"))

    def _push(self, job: Job, urgency: float) -> None:
        with self._lock:
            heapq.heappush(self._waiting, (urgency, next(self._count), job))
