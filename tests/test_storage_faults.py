"""Disks that fill up, files and databases that break, buckets that are away: real ones, under a real server.

Each time: a clear refusal, `/readyz` says what is wrong, nothing is committed wrongly, and after the repair
it goes on to the same weights as if nothing had been.
"""

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import ANY

import httpx
import prepared
import pytest
from postgres import DATABASE_VARIABLE, Cluster, fresh_database, missing, on_sqlite
from run_helpers import Party, rounds_of
from s3 import CREDENTIALS, s3_server
from server_helpers import (
    SERVE,
    Phone,
    plain_mean,
    serving,
    synthetic_update,
    wait_for_round,
)
from waiting import PATIENCE_SEC, wait_for

from fedfer.aggregator.config import RunConfig, RunSettings, ServerConfig
from fedfer.aggregator.opening import running_service
from fedfer.aggregator.watching import health_of
from fedfer.export.checkpoint import digest_of
from fedfer.export.contract import Contract, read_contract
from fedfer.model.errors import StoreError

TWO = ["--clients", "2", "--rounds", "1"]


@pytest.fixture(scope="module")
def contract(tiny_tflite: Path) -> Contract:
    return read_contract(tiny_tflite)


def problems(client: httpx.Client) -> dict[str, str]:
    """What /readyz says is wrong."""
    reply = client.get("/readyz")
    body = reply.json()
    assert (reply.status_code == 200) == body["ready"] == (not body["problems"])
    found: dict[str, str] = body["problems"]
    return found


def refused(reply: httpx.Response) -> str:
    """The reason of a 503."""
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "store_failed")
    assert int(reply.headers["retry-after"]) > 0
    reason: str = reply.json()["error"]["reason"]
    return reason


def two_phones(client: httpx.Client) -> tuple[list[Phone], list[dict[str, object]]]:
    phones = [Phone(client, f"phone-{i}").enrol() for i in range(2)]
    return phones, [phone.work() for phone in phones]


def expected(contract: Contract) -> str:
    """The result of a round of the updates 0 and 1."""
    return digest_of(plain_mean(contract, [(0, 5), (1, 5)]))


@contextmanager
def small_disk(place: Path, size_bytes: int) -> Iterator[Path]:
    """A file system of its own, which is full when it is full. Skips where none may be mounted."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path, left_bytes: int) -> Path:
    """A file that leaves so little room."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        found = os.statvfs(disk)
        os.posix_fallocate(file.fileno(), 0, found.f_bavail * found.f_frsize - left_bytes)
    return ballast


def test_a_full_disk(tiny_tflite: Path, tmp_path: Path, contract: Contract) -> None:
    bodies = [synthetic_update(contract, seed) for seed in range(2)]
    with (
        small_disk(tmp_path / "disk", 64 * 2**20) as disk,
        serving(tiny_tflite, disk / "data", *TWO) as server,
        server.client() as client,
    ):
        phones, works = two_phones(client)
        assert phones[0].upload(works[0], bodies[0]).status_code == 200
        ballast = fill(disk, left_bytes=0)
        assert "No space left" in refused(phones[1].upload(works[1], bodies[1]))
        wait_for(lambda: "disk" in problems(client))
        assert "database" in problems(client) or os.environ.get(DATABASE_VARIABLE)
        assert client.get("/healthz").status_code == 200
        record = client.get("/v1/runs/default/rounds/1").json()
        assert (record["phase"], len(record["updates"])) == ("open", 1)
        ballast.unlink()
        wait_for(lambda: problems(client) == {})
        assert phones[1].upload(works[1], bodies[1]).status_code == 200
        assert wait_for_round(client, 1)["result_weights"] == expected(contract)


def test_a_disk_that_is_full_when_the_round_is_closed(
    tiny_tflite: Path, tmp_path: Path, contract: Contract
) -> None:
    """Room for the last update and not for the version: nothing is committed until there is."""
    bodies = [synthetic_update(contract, seed) for seed in range(2)]
    with (
        small_disk(tmp_path / "disk", 64 * 2**20) as disk,
        serving(tiny_tflite, disk / "data", *TWO) as server,
        server.client() as client,
    ):
        phones, works = two_phones(client)
        assert phones[0].upload(works[0], bodies[0]).status_code == 200
        (disk / "data" / "versions").rename(disk / "versions")
        (disk / "data" / "versions").symlink_to(tmp_path / "nowhere")
        assert phones[1].upload(works[1], bodies[1]).status_code == 200
        wait_for(lambda: {"closing", "files"} <= set(problems(client)))
        record = client.get("/v1/runs/default/rounds/1").json()
        assert (record["phase"], record["result_weights"]) == ("aggregating", None)
        (disk / "data" / "versions").unlink()
        (disk / "versions").rename(disk / "data" / "versions")
        assert wait_for_round(client, 1)["result_weights"] == expected(contract)
        wait_for(lambda: problems(client) == {})
        assert "fedfer_close_failures_total" in client.get("/metrics").text


def test_a_damaged_version(tiny_tflite: Path, tmp_path: Path) -> None:
    with serving(tiny_tflite, tmp_path / "data", *TWO) as server, server.client() as client:
        assert problems(client) == {}
        (version,) = (tmp_path / "data" / "versions").iterdir()
        whole = version.read_bytes()
        version.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        wait_for(lambda: "is damaged" in problems(client).get("files", ""))
        version.write_bytes(whole)
        wait_for(lambda: problems(client) == {})


def test_a_damaged_update_is_not_averaged(tiny_tflite: Path, tmp_path: Path, contract: Contract) -> None:
    """One bit of an accepted update flips on the disk, where all its numbers stay finite."""
    data_dir = tmp_path / "data"
    with serving(tiny_tflite, data_dir, *TWO) as server, server.client() as client:
        phones, works = two_phones(client)
        assert phones[0].upload(works[0], synthetic_update(contract, 0)).status_code == 200
        (file,) = (data_dir / "updates").rglob("*.safetensors")
        whole = file.read_bytes()
        file.write_bytes(whole[:-4] + bytes([whole[-4] ^ 1]) + whole[-3:])
        assert phones[1].upload(works[1], synthetic_update(contract, 1)).status_code == 200
        wait_for(lambda: "damaged" in problems(client).get("closing", ""))
        assert client.get("/v1/runs/default/rounds/1").json()["result_weights"] is None
        file.write_bytes(whole)
        assert wait_for_round(client, 1)["result_weights"] == expected(contract)


@on_sqlite
def test_a_locked_database(tiny_tflite: Path, tmp_path: Path, contract: Contract) -> None:
    """Another program that writes for long: what waits is refused after a while, then all goes on."""
    data_dir = tmp_path / "data"
    with (
        serving(tiny_tflite, data_dir, *TWO) as server,
        httpx.Client(base_url=server.url, timeout=PATIENCE_SEC) as client,
    ):
        phones, works = two_phones(client)
        other = sqlite3.connect(data_dir / "fedfer.db", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        assert "locked" in problems(client)["database"]
        assert client.get("/v1/runs/default/rounds").status_code == 200
        assert client.get("/v1/runs/default").json()["num_active_devices"] == 2
        assert phones[0].work() == works[0] | {"deadline_sec": ANY}
        other.execute("ROLLBACK")
        other.close()
        wait_for(lambda: problems(client) == {})
        for i in range(2):
            assert phones[i].upload(works[i], synthetic_update(contract, i)).status_code == 200
        assert wait_for_round(client, 1)["result_weights"] == expected(contract)


@on_sqlite
def test_a_damaged_database(tiny_tflite: Path, tmp_path: Path, contract: Contract) -> None:
    """Overwritten under a running server: refused, not ready; with the file restored, a new start goes on."""
    data_dir = tmp_path / "data"
    database, copy = data_dir / "fedfer.db", tmp_path / "copy.db"
    with serving(tiny_tflite, data_dir, *TWO) as server, server.client() as client:
        phones, works = two_phones(client)
        assert phones[0].upload(works[0], synthetic_update(contract, 0)).status_code == 200
        with sqlite3.connect(database) as source, sqlite3.connect(copy) as target:
            source.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            source.backup(target)
        source.close()
        target.close()
        content = database.read_bytes()
        database.write_bytes(content[:100] + b"\xff" * (len(content) - 100))
        wait_for(lambda: "database" in problems(client))
        refused(phones[1].upload(works[1], synthetic_update(contract, 1)))
        server.kill()
    done = prepared.run([*SERVE, str(tiny_tflite), "--data-dir", str(data_dir), "--port", "0", *TWO])
    assert done.returncode == 1
    assert "damaged" in done.stderr or "malformed" in done.stderr
    assert done.stderr.count("\n") == 1
    for suffix in ("-wal", "-shm"):
        (data_dir / f"fedfer.db{suffix}").unlink(missing_ok=True)
    shutil.copy(copy, database)
    with serving(tiny_tflite, data_dir, *TWO) as server, server.client() as client:
        for phone in phones:
            phone.client = client
        assert phones[1].upload(works[1], synthetic_update(contract, 1)).status_code == 200
        assert wait_for_round(client, 1)["result_weights"] == expected(contract)


@on_sqlite
@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_postgresql_for_a_directory_with_runs(tiny_tflite: Path, tmp_path: Path) -> None:
    """Killed, so that SQLite's journal is there too: refused in one line, and the runs are as they were."""
    data_dir = tmp_path / "data"
    with serving(tiny_tflite, data_dir, *TWO) as server, server.client() as client:
        two_phones(client)
        server.kill()
    command = [*SERVE, str(tiny_tflite), "--data-dir", str(data_dir), "--port", "0", *TWO]
    done = prepared.run([*command, "--database-url", fresh_database("left")])
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert f"{data_dir / 'fedfer.db'} holds runs (1)" in done.stderr
    with serving(tiny_tflite, data_dir, *TWO) as server, server.client() as client:
        assert client.get("/v1/runs/default").json()["num_active_devices"] == 2
    (data_dir / "fedfer.db").rename(tmp_path / "moved.db")
    options = [*TWO, "--database-url", fresh_database("left")]
    with serving(tiny_tflite, data_dir, *options) as server, server.client() as client:
        assert client.get("/v1/runs/default").json()["num_active_devices"] == 0


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_postgresql_that_is_restarted(tiny_tflite: Path, tmp_path: Path, contract: Contract) -> None:
    """Away: refused, not ready. Back: the same server goes on, and has the database to itself again."""
    cluster = Cluster()
    url = cluster.url.render_as_string(hide_password=False)
    options = [*TWO, "--database-url", url]
    with serving(tiny_tflite, tmp_path / "data", *options) as server, server.client() as client:
        phones, works = two_phones(client)
        assert phones[0].upload(works[0], synthetic_update(contract, 0)).status_code == 200
        cluster.stop()
        refused(phones[1].upload(works[1], synthetic_update(contract, 1)))
        wait_for(lambda: "database" in problems(client))
        cluster.start()
        wait_for(lambda: problems(client) == {})
        done = prepared.run(
            [*SERVE, str(tiny_tflite), "--data-dir", str(tmp_path / "b"), "--port", "0", *options]
        )
        assert "another server is using the database" in done.stderr
        assert phones[1].upload(works[1], synthetic_update(contract, 1)).status_code == 200
        assert wait_for_round(client, 1)["result_weights"] == expected(contract)
    cluster.remove()


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_postgresql_that_says_nothing(
    tiny_tflite: Path, tmp_path: Path, contract: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its processes are there and stopped: refused after a while, not ready. When they go on, so does all."""
    from fedfer.aggregator import postgres

    monkeypatch.setattr(postgres, "ANSWER_SEC", 0.5)
    monkeypatch.setattr(postgres, "CONNECT_SEC", 2)
    cluster = Cluster()
    runs = (RunConfig(tiny_tflite, settings=RunSettings(rounds_of(2))),)
    url = cluster.url.render_as_string(hide_password=False)
    with running_service(ServerConfig(tmp_path, runs, database_url=url)) as service:
        there, health = Party(service, service.run("default")), health_of(service)
        a, b = there.phones("a", "b")
        works = [phone.work() for phone in (a, b)]
        a.send(works[0], synthetic_update(contract, 0))
        with cluster.stopped():
            with pytest.raises(StoreError, match=r"has not answered|connection timeout"):
                b.send(works[1], synthetic_update(contract, 1))
            assert "database" in health.readiness().problems
        wait_for(lambda: health.readiness().is_ready)
        b.send(works[1], synthetic_update(contract, 1))
        there.wait_for_end_of(1)
        assert there.run.newest_weights == expected(contract)
    cluster.remove()


def test_a_bucket_that_is_away(
    tiny_tflite: Path, tmp_path: Path, contract: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with s3_server() as bucket:
        options = [*TWO, "--weights-url", bucket.url("away")]
        with serving(tiny_tflite, tmp_path / "data", *options) as server, server.client() as client:
            phones, works = two_phones(client)
            assert problems(client) == {}
            bucket.delete_bucket()
            assert "s3://weights/away" in refused(phones[0].upload(works[0], synthetic_update(contract, 0)))
            wait_for(lambda: "bucket" in problems(client))
            assert client.get("/v1/runs/default/rounds/1").json()["updates"] == []
            bucket.make_bucket()
            wait_for(lambda: problems(client) == {})
            for i in range(2):
                assert phones[i].upload(works[i], synthetic_update(contract, i)).status_code == 200
            assert wait_for_round(client, 1)["result_weights"] == expected(contract)
