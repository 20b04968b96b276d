"""Tasks on local Ray clusters of several processes: the same bits, whoever runs them and whatever dies."""

import importlib.util
import json
import signal
import subprocess
import sys
from pathlib import Path

import prepared
import pytest
from prepared import call_isolated
from ray_runs import (
    NUM_TASKS,
    by_one_bench,
    descendants,
    listening,
    name_of,
    on_ray,
    prepare,
    with_a_death,
    with_a_lost_machine,
    with_bad_tasks,
    with_killed_tasks,
)
from test_simulate import SCENARIO
from waiting import PATIENCE_SEC, wait_for

from fedfer.android_stub.simulation.ray_bench import PREFIX, drop_left_behind

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed (pip install 'fedfer[ray]')"
)
LONG = 60  # local epochs: a task takes long enough to be killed in


@pytest.fixture(scope="module")
def place(tiny_tflite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("ray")
    prepare(tiny_tflite, directory)
    return directory


@pytest.fixture(scope="module")
def expected(tiny_tflite: Path, place: Path) -> list[str]:
    return call_isolated(by_one_bench, tiny_tflite, place, LONG)


def test_actors_give_what_one_bench_gives(tiny_tflite: Path, place: Path) -> None:
    results = call_isolated(on_ray, tiny_tflite, place)
    digests = call_isolated(by_one_bench, tiny_tflite, place, 4)
    assert [result.sha256 for result, _ in results] == digests
    assert len(set(digests)) == NUM_TASKS
    assert all(result.num_bytes == size for result, size in results)


def test_a_task_that_fails_fails_alone(tiny_tflite: Path, place: Path) -> None:
    code, digest = call_isolated(with_bad_tasks, tiny_tflite, place)
    assert code == "not_finite"
    assert digest == call_isolated(by_one_bench, tiny_tflite, place, 4)[1]


def test_an_actor_that_is_killed_costs_only_time(tiny_tflite: Path, place: Path, expected: list[str]) -> None:
    assert call_isolated(with_a_death, tiny_tflite, place, LONG) == expected


def test_a_machine_that_is_lost_costs_only_time(tiny_tflite: Path, place: Path, expected: list[str]) -> None:
    num_actors, digests = call_isolated(with_a_lost_machine, tiny_tflite, place, LONG)
    assert num_actors == 2
    assert digests == expected


def test_tasks_that_are_to_be_killed_are_killed_on_other_machines_too(
    tiny_tflite: Path, place: Path, expected: list[str]
) -> None:
    deaths, digests = call_isolated(with_killed_tasks, tiny_tflite, place, LONG)
    assert deaths == [0, 1] * (NUM_TASKS // 2)
    assert digests == expected


def test_what_actors_that_died_left_behind(tmp_path: Path) -> None:
    """Held by a process that lives, held by one that died, never held."""
    names = [f"{PREFIX}{name}" for name in ("living", "dead", "old")]
    hold = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX); print()"
    hold += "; sys.stdout.flush(); input()"
    for name in (*names, "another"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "update").write_bytes(b"x")
    holders = [
        subprocess.Popen(
            [sys.executable, "-c", hold, tmp_path / name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for name in names[:2]
    ]
    for holder in holders:
        assert holder.stdout is not None
        holder.stdout.readline()
    holders[1].kill()
    holders[1].wait()
    drop_left_behind(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["another", names[0]]
    holders[0].communicate(b"\n")
    holders[1].communicate()
    drop_left_behind(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["another"]


def test_a_local_cluster_listens_for_its_own_machine_only() -> None:
    addresses = set(call_isolated(listening))
    loopback = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert addresses
    assert addresses <= loopback


def simulate(scenario: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fedfer.cli.main", "simulate", str(scenario), *options]
    return prepared.run(command)


def test_a_simulation_on_ray_is_the_same_bit_for_bit(tiny_tflite: Path, tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(tiny_tflite.read_bytes())
    scenario = tmp_path / "tiny.toml"
    scenario.write_text(SCENARIO)
    records = []
    for name, options in {"ray": ["--ray=local", "--processes=2"], "pool": ["--processes=1"]}.items():
        done = simulate(scenario, f"--output={tmp_path / name}", *options)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        records.append(json.loads((tmp_path / name / "record.json").read_text()))
    on_ray, in_pool = records
    assert on_ray["num_processes"] == 2
    assert on_ray["final"] == in_pool["final"]
    assert on_ray["devices"] == in_pool["devices"]
    assert [done["updates"] for done in on_ray["rounds"]] == [done["updates"] for done in in_pool["rounds"]]


def test_a_simulation_that_is_stopped_takes_its_cluster_along(tiny_tflite: Path, tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(tiny_tflite.read_bytes())
    (tmp_path / "tiny.toml").write_text(SCENARIO)
    command = [
        sys.executable,
        "-m",
        "fedfer.cli.main",
        "simulate",
        str(tmp_path / "tiny.toml"),
        "--rounds=1000",
    ]
    process = subprocess.Popen(
        [*command, f"--output={tmp_path / 'out'}", "--ray=local", "--processes=1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            next(line for line in process.stdout if line.startswith("round 2"))
            started = descendants(process.pid)
            assert any(name_of(pid).startswith("ray::RemoteBench") for pid in started)
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_SEC) == 143
        finally:
            process.kill()
        assert process.stderr.read() == ""
    wait_for(lambda: not any(name_of(pid) for pid in started))


def test_a_cluster_that_is_not_there_is_said_in_one_line(tiny_tflite: Path, tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(tiny_tflite.read_bytes())
    (tmp_path / "tiny.toml").write_text(SCENARIO)
    done = simulate(tmp_path / "tiny.toml", f"--output={tmp_path / 'out'}", "--ray=127.0.0.1:9")
    assert done.returncode == 1
    assert done.stderr.startswith("fedfer simulate: no Ray cluster answers at 127.0.0.1:9")
    assert done.stderr.count("\n") == 1
