"""The processes that train: urgency, taking back, deaths, errors. With a bench that needs no model."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from waiting import wait_for

from fedfer.android_stub.simulation.jobs import MAX_DEATHS, Ticket
from fedfer.android_stub.simulation.pool import ProcessPool
from fedfer.android_stub.simulation.tasks import BenchSettings, Task, TaskResult
from fedfer.android_stub.trainer import Seeds, TrainingPlan
from fedfer.model.errors import CheckpointError, InterpreterError


class Bench:
    """Does what the name of the task's device says; its calls stand in the file that the task names."""

    def __init__(self, settings: BenchSettings) -> None:
        self.settings = settings

    def run(self, task: Task) -> TaskResult:
        with task.output.open("a") as file:
            file.write(f"{task.device}\n")
        match task.device:
            case "slow":
                while not task.output.with_suffix(".go").exists():
                    time.sleep(0.01)
            case "deadly":
                os.kill(os.getpid(), signal.SIGKILL)
            case "once" if task.output.read_text().count("once") == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            case "bad":
                raise CheckpointError("diverged", code="not_finite")
        return TaskResult("0" * 64, 1, 1, 0.0, 0.0, 0.0)


@contextmanager
def pool(num_processes: int) -> Iterator[ProcessPool]:
    settings: Any = None  # the bench above has no use for any
    with closing(ProcessPool(settings, num_processes, make_bench=Bench)) as running:
        yield running


def task(name: str, calls: Path) -> Task:
    plan, seeds = TrainingPlan(1, 1, 0.1), Seeds(0, 0, 1)
    return Task(name, Path(), "", Path(), np.arange(1), plan, seeds, calls)


def wait_for_call(calls: Path, text: str) -> None:
    wait_for(lambda: calls.exists() and text in calls.read_text())


def test_the_most_urgent_is_run_first(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    with pool(1) as running:
        tickets: list[Ticket] = [running.submit(task("slow", calls), 0.0)]
        wait_for_call(calls, "slow")
        tickets += [running.submit(task(str(n), calls), float(n)) for n in (3, 1, 2)]
        calls.with_suffix(".go").touch()
        for ticket in tickets:
            ticket.result()
    assert calls.read_text().split() == ["slow", "1", "2", "3"]


def test_what_has_not_begun_can_be_taken_back(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    with pool(1) as running:
        begun = running.submit(task("slow", calls), 0.0)
        wait_for_call(calls, "slow")
        waiting = running.submit(task("never", calls), 1.0)
        assert waiting.cancel()
        assert not begun.cancel()
        calls.with_suffix(".go").touch()
        assert begun.result().num_examples == 1
        running.submit(task("after", calls), 2.0).result()
    assert calls.read_text().split() == ["slow", "after"]


def test_a_task_whose_process_died_is_run_again(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    with pool(2) as running:
        assert running.submit(task("once", calls), 0.0).result().num_examples == 1
        assert running.submit(task("other", calls), 0.0).result().num_examples == 1
    assert calls.read_text().split() == ["once", "once", "other"]


def test_a_task_that_kills_every_process_is_given_up(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    with pool(1) as running:
        ticket = running.submit(task("deadly", calls), 0.0)
        with pytest.raises(InterpreterError, match=r"process of deadly died 3 times, last with exit code -9"):
            ticket.result()
        running.submit(task("other", calls), 0.0).result()
    assert calls.read_text().split() == ["deadly"] * MAX_DEATHS + ["other"]


def test_errors_reach_who_asked(tmp_path: Path) -> None:
    with pool(1) as running:
        ticket = running.submit(task("bad", tmp_path / "calls"), 0.0)
        with pytest.raises(CheckpointError, match="diverged") as caught:
            ticket.result()
    assert caught.value.code == "not_finite"
