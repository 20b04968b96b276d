"""Tasks on local Ray clusters, for `call_isolated`: Ray and interpreters come inside."""

import os
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from trainer_helpers import first_checkpoint, noise

from fedfer.android_stub.simulation.dying import Killing
from fedfer.android_stub.simulation.ray_pool import ENVIRONMENT, LOCAL_ENVIRONMENT, RayPool, connect
from fedfer.android_stub.simulation.tasks import Bench, BenchSettings, Task, TaskResult, store_data
from fedfer.android_stub.trainer import Seeds, TrainingPlan
from fedfer.export.contract import read_contract
from fedfer.export.engines import EngineChoice
from fedfer.export.isolation import call_isolated
from fedfer.model.errors import FedferError

NUM_TASKS = 6
STORE_BYTES = 100 * 2**20


def prepare(model: Path, directory: Path) -> None:
    """The images and the first weights of the tasks."""
    store_data(noise(NUM_TASKS * 8, 0), directory / "data")
    (directory / "weights").write_bytes(call_isolated(first_checkpoint, model))


def settings(directory: Path) -> BenchSettings:
    return BenchSettings(directory / "data", EngineChoice())


def tasks(model: Path, directory: Path, name: str, local_epochs: int = 4) -> list[Task]:
    """One for each device, whose updates go to `directory/name-N`."""
    contract, plan = read_contract(model).digest, TrainingPlan(local_epochs, 4, 0.02)
    return [
        Task(
            device=f"phone-{number}",
            model=model,
            contract=contract,
            weights=directory / "weights",
            indices=np.arange(8 * number, 8 * number + 8),
            plan=plan,
            seeds=Seeds(0, number, 1),
            output=directory / f"{name}-{number}",
        )
        for number in range(NUM_TASKS)
    ]


def by_one_bench(model: Path, directory: Path, local_epochs: int) -> list[str]:
    """The updates' digests, without any pool."""
    bench = Bench(settings(directory))
    return [bench.run(task).sha256 for task in tasks(model, directory, "bench", local_epochs)]


def on_ray(model: Path, directory: Path) -> list[tuple[TaskResult, int]]:
    """The results and the sizes of the updates, of two actors."""
    with closing(RayPool(settings(directory), "local", 2)) as pool:
        tickets = [pool.submit(task, 0.0) for task in tasks(model, directory, "ray")]
        results = [ticket.result() for ticket in tickets]
        return [(r, (directory / f"ray-{n}").stat().st_size) for n, r in enumerate(results)]


def listening() -> list[str]:
    """Addresses at which processes that this one started take connections, while a local cluster runs."""
    ray = connect("local", 1, STORE_BYTES)
    sockets = {f"socket:[{inode}]": address for address, inode in _listening_sockets()}
    found = []
    for pid in descendants(os.getpid()):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            try:
                found.append(sockets.get(str(descriptor.readlink()), ""))
            except FileNotFoundError:
                continue
    ray.shutdown()
    return [address for address in found if address]


def _listening_sockets() -> Iterator[tuple[str, str]]:
    """Address in hex, as Linux writes it, and inode."""
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                yield fields[1].partition(":")[0], fields[9]


def with_bad_tasks(model: Path, directory: Path) -> list[str]:
    """What is said of a task that diverges, of one that is taken back, and of one after them."""
    diverging, last, *_ = tasks(model, directory, "bad")
    said = []
    with closing(RayPool(settings(directory), "local", 1)) as pool:
        plan = TrainingPlan(1, 4, 1e30)
        first = pool.submit(Task(**{**vars(diverging), "plan": plan}), 0.0)
        ticket = pool.submit(last, 1.0)
        try:
            first.result()
        except FedferError as error:
            said.append(error.code)
        return [*said, ticket.result().sha256]


def with_a_death(model: Path, directory: Path, local_epochs: int) -> list[str]:
    """The updates' digests, when an actor is killed in the middle of a task."""
    with closing(RayPool(settings(directory), "local", 2)) as pool:
        tickets = [pool.submit(task, 0.0) for task in tasks(model, directory, "death", local_epochs)]
        tickets[0].result()
        actors = [pid for pid in descendants(os.getpid()) if name_of(pid).startswith("ray::RemoteBench")]
        assert len(actors) == 2
        os.kill(actors[0], signal.SIGKILL)
        return [ticket.result().sha256 for ticket in tickets]


def with_a_lost_machine(model: Path, directory: Path, local_epochs: int) -> tuple[int, list[str]]:
    """Number of actors, and the updates' digests, when one of a cluster's two machines goes away."""
    with (
        _two_machines() as (cluster, other),
        closing(RayPool(settings(directory), cluster.address, None)) as pool,
    ):
        tickets = [pool.submit(task, 0.0) for task in tasks(model, directory, "lost", local_epochs)]
        tickets[0].result()
        cluster.remove_node(other, allow_graceful=False)
        return pool.size, [ticket.result().sha256 for ticket in tickets]


def with_killed_tasks(model: Path, directory: Path, local_epochs: int) -> tuple[list[int], list[str]]:
    """How many actors each task took with it, and the updates' digests, when every other task is to be killed
    on machines that share no directory with this one."""
    wanted = tasks(model, directory, "killed", local_epochs)
    killed = [
        replace(task, killing=Killing(3, Path("/nowhere/progress"))) if number % 2 else task
        for number, task in enumerate(wanted)
    ]
    with (
        _two_machines() as (cluster, _),
        closing(RayPool(settings(directory), cluster.address, None)) as pool,
    ):
        tickets: list[Any] = [pool.submit(task, 0.0) for task in killed]
        digests = [ticket.result().sha256 for ticket in tickets]
        return [ticket.deaths for ticket in tickets], digests


@contextmanager
def _two_machines() -> Iterator[tuple[Any, Any]]:
    """Two of Ray's nodes, each with a processor."""
    os.environ.update(ENVIRONMENT | LOCAL_ENVIRONMENT)
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    cluster: Any = Cluster(initialize_head=True, head_node_args=node)
    try:
        yield cluster, cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
    finally:
        cluster.shutdown()


def descendants(pid: int) -> list[int]:
    """Process ids below this one (Linux)."""
    try:
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except FileNotFoundError:
        return []
    return [*children, *(below for child in children for below in descendants(child))]


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except FileNotFoundError:
        return ""
