"""Weights in a bucket: the data directory is a cache, and a server on another machine goes on without it."""

import hashlib
import logging
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import ANY

import pytest
from postgres import fresh_database, missing
from s3 import BUCKET, CREDENTIALS, URL_VARIABLE, S3Server, s3_server
from server_helpers import Phone, plain_mean, serving, synthetic_update, wait_for_round
from waiting import wait_for

from fedfer.aggregator.blobs import Blobs
from fedfer.aggregator.bucket import Bucket, parse_url
from fedfer.aggregator.mirrored_blobs import CACHED, IN_USE_SEC, UPDATES, MirroredBlobs
from fedfer.export.contract import read_contract
from fedfer.model.errors import StoreError


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)


def blobs_at(path: Path, server: S3Server, prefix: str, now: list[float] | None = None) -> MirroredBlobs:
    times = now or [0.0]
    return MirroredBlobs(path, Bucket(parse_url(server.url(prefix))), 25, lambda: times[0])


def named(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_what_one_directory_keeps_another_finds(server: S3Server, tmp_path: Path) -> None:
    here, there = blobs_at(tmp_path / "a", server, "two"), blobs_at(tmp_path / "b", server, "two")
    content = b"weights"
    here.write(here.version_path(named(content)), content)
    place = there.version_path(named(content))
    assert not place.exists()
    assert there.present(place).read_bytes() == content
    assert list((tmp_path / "b" / "tmp").iterdir()) == []
    with pytest.raises(StoreError, match="not there"):
        there.present(there.version_path("0" * 64))
    server.overwrite(f"two/versions/{named(content)}.safetensors", b"Weights")
    place.unlink()
    with pytest.raises(StoreError, match="is damaged"):
        there.present(place)
    assert not place.exists()
    here.close()
    there.close()


def test_a_damaged_copy_is_fetched_anew(server: S3Server, tmp_path: Path) -> None:
    blobs = blobs_at(tmp_path / "a", server, "anew")
    place = blobs.version_path(named(b"weights"))
    blobs.write(place, b"weights")
    place.write_bytes(b"Weights")
    assert blobs.checked(place).read_bytes() == b"weights"
    blobs.close()


def test_updates_go_from_both(server: S3Server, tmp_path: Path) -> None:
    blobs = blobs_at(tmp_path / "a", server, "updates-go")
    for number in (1, 2, 10):
        blobs.write(blobs.update_path("run", number, named(b"x")), b"x")
    blobs.write(blobs.update_path("run-2", 1, named(b"x")), b"x")
    blobs.drop_updates("run", 1)
    blobs.drop_updates_before("run", 10)
    kept = ["updates/run-2/1", "updates/run/10"]
    stored = [key.removeprefix("updates-go/") for key in server.listed("updates-go/")]
    assert [key.rpartition("/")[0] for key in stored] == kept
    assert (
        sorted(p.relative_to(blobs.root).parent.as_posix() for p in blobs.root.rglob("*.safetensors")) == kept
    )
    blobs.close()


def test_the_cache_is_bounded_and_keeps_what_is_in_use(server: S3Server, tmp_path: Path) -> None:
    """Room for 25 bytes: of versions of 10 bytes, two stay; none that was used in the last minutes goes."""
    now = [1000.0]
    blobs = blobs_at(tmp_path / "a", server, "cache", now)
    contents = [bytes([i]) * 10 for i in range(4)]
    places = [blobs.version_path(named(content)) for content in contents]
    for content, place in zip(contents[:3], places, strict=False):
        blobs.write(place, content)
        blobs.present(place)
    assert [place.exists() for place in places] == [True, True, True, False]
    now[0] += IN_USE_SEC + 1
    blobs.present(places[0])
    blobs.write(places[3], contents[3])
    assert [place.exists() for place in places] == [True, False, False, True]
    assert blobs.present(places[1]).read_bytes() == contents[1]
    blobs.close()


def test_nothing_is_kept_that_the_bucket_does_not_have(server: S3Server, tmp_path: Path) -> None:
    blobs = MirroredBlobs(tmp_path / "a", Bucket(parse_url(server.url("x").replace(BUCKET, "gone"))), 25)
    with pytest.raises(StoreError, match="cannot put versions/"):
        blobs.write(blobs.version_path(named(b"x")), b"x")
    assert not blobs.version_path(named(b"x")).exists()
    blobs.close()


def files_in(root: Path) -> list[str]:
    """What is kept in a data directory, by key."""
    paths = (path for name in (*CACHED, UPDATES) for path in (root / name).rglob("*") if path.is_file())
    return sorted(path.relative_to(root).as_posix() for path in paths)


def without_bucket(path: Path) -> Blobs:
    """A directory with a file of each kind, that no server uses any more."""
    blobs = Blobs(path)
    blobs.write(blobs.model_path(named(b"model")), b"model")
    blobs.write(blobs.state_path(named(b"state")), b"state")
    for content in (b"x" * 10, b"y" * 10, b"z" * 10):
        blobs.write(blobs.version_path(named(content)), content)
    blobs.write(blobs.update_path("run", 3, named(b"update")), b"update")
    blobs.close()
    return blobs


def test_a_directory_that_was_used_without_a_bucket(
    server: S3Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """All that only it has is sent, once; but not what is damaged, and not what retention has deleted."""
    caplog.set_level(logging.INFO, "fedfer.aggregator")
    before = without_bucket(tmp_path / "a")
    damaged, deleted = before.version_path(named(b"x" * 10)), before.version_path(named(b"y" * 10))
    damaged.write_bytes(b"X" * 10)
    wanted = [name for name in files_in(before.root) if Path(name).name not in (damaged.name, deleted.name)]
    blobs = blobs_at(tmp_path / "a", server, "later")
    blobs.send_missing({deleted.stem})
    assert [key.removeprefix("later/") for key in server.listed("later/")] == wanted
    for name in wanted:
        assert server.read(f"later/{name}") == (blobs.root / name).read_bytes()
    assert "s3://weights/later lacks 5 files of" in caplog.text
    assert f"{damaged} is damaged" in caplog.text
    caplog.clear()
    blobs.write(damaged, b"x" * 10)
    blobs.send_missing({deleted.stem})
    assert caplog.text == ""
    blobs.close()


def test_the_cache_keeps_what_the_bucket_lacks(server: S3Server, tmp_path: Path) -> None:
    """Room for 25 bytes; the directory holds 40, none of it used for long."""
    now = [4e9]
    before = files_in(without_bucket(tmp_path / "a").root)
    blobs = blobs_at(tmp_path / "a", server, "keeps", now)
    blobs.write(blobs.version_path(named(b"new")), b"new")
    assert set(before) < set(files_in(blobs.root))
    now[0] += IN_USE_SEC + 1
    blobs.send_missing(())
    blobs.write(blobs.version_path(named(b"newer")), b"newer")
    assert len(files_in(blobs.root)) < len(before)
    for name in before:
        assert named(blobs.present(blobs.root / name).read_bytes()) == Path(name).stem
    blobs.close()


def test_a_server_that_gets_a_bucket_later(server: S3Server, tiny_tflite: Path, tmp_path: Path) -> None:
    """While the bucket is away it gives work and takes none; started with one that is there it sends all."""
    contract, options = read_contract(tiny_tflite), ["--clients", "2", "--rounds", "2"]
    with serving(tiny_tflite, tmp_path / "data", *options) as first, first.client() as client:
        phones = [Phone(client, f"phone-{i}").enrol() for i in range(2)]
        works = [phone.work() for phone in phones]
        assert phones[0].upload(works[0], synthetic_update(contract, 0)).status_code == 200
    gone = server.url("later-server").replace(BUCKET, "gone")
    with (
        serving(tiny_tflite, tmp_path / "data", *options, "--weights-url", gone) as away,
        away.client() as client,
    ):
        phones[1].client = client
        assert phones[1].work() == works[1] | {"deadline_sec": ANY}
        assert phones[1].upload(works[1], synthetic_update(contract, 1)).status_code == 503
        assert "cannot list models/ in s3://gone/later-server: " in away.log.read_text()
    options += ["--weights-url", server.url("later-server")]
    with serving(tiny_tflite, tmp_path / "data", *options) as second, second.client() as client:
        stored = [key.removeprefix("later-server/") for key in server.listed("later-server/")]
        assert stored == files_in(tmp_path / "data")
        assert len(stored) == 3
        phones[1].client = client
        assert phones[1].upload(works[1], synthetic_update(contract, 1)).status_code == 200
        assert wait_for_round(client, 1)["result_weights"] == named(plain_mean(contract, [(0, 5), (1, 5)]))


def test_a_slow_bucket_holds_up_nobody_else(server: S3Server, tiny_tflite: Path, tmp_path: Path) -> None:
    """While one upload waits for the bucket, other devices get answers; then it gets its receipt."""
    if server.process is None:
        pytest.skip(f"{URL_VARIABLE} names a server that is not this test's to stop")
    contract, replies = read_contract(tiny_tflite), []
    options = ["--clients", "2", "--rounds", "1", "--weights-url", server.url("slow")]
    with serving(tiny_tflite, tmp_path / "data", *options) as running, running.client() as client:
        phones = [Phone(client, f"phone-{i}").enrol() for i in range(2)]
        works = [phone.work() for phone in phones]
        body = synthetic_update(contract, 0)
        upload = threading.Thread(target=lambda: replies.append(phones[0].upload(works[0], body)))
        server.process.send_signal(signal.SIGSTOP)
        try:
            upload.start()
            # As long as it is not kept, its whole body is an unfinished file.
            wait_for(lambda: len(body) in [p.stat().st_size for p in (tmp_path / "data" / "tmp").iterdir()])
            for _ in range(20):
                assert phones[1].work() == works[1] | {"deadline_sec": ANY}
            assert replies == []
        finally:
            server.process.send_signal(signal.SIGCONT)
        upload.join()
        assert replies[0].status_code == 200


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_another_machine_goes_on(server: S3Server, tiny_tflite: Path, tmp_path: Path) -> None:
    """Killed in the middle of a round, its disk gone: PostgreSQL and the bucket have what was accepted."""
    contract = read_contract(tiny_tflite)
    options = ["--clients", "2", "--rounds", "2", "--weights-url", server.url("moved")]
    options += ["--database-url", fresh_database("moved")]
    with serving(tiny_tflite, tmp_path / "a", *options) as first, first.client() as client:
        phones = [Phone(client, f"phone-{i}").enrol() for i in range(2)]
        works = [phone.work() for phone in phones]
        assert phones[0].upload(works[0], synthetic_update(contract, 0)).status_code == 200
        first.kill()
    shutil.rmtree(tmp_path / "a")
    with serving(tiny_tflite, tmp_path / "b", *options) as second, second.client() as client:
        for phone in phones:
            phone.client = client
        assert phones[1].upload(works[1], synthetic_update(contract, 1)).status_code == 200
        result = wait_for_round(client, 1)["result_weights"]
        mean = plain_mean(contract, [(0, 5), (1, 5)])
        assert result == named(mean)
        assert server.read(f"moved/versions/{result}.safetensors") == mean
        assert client.get(f"/v1/weights/{result}").content == mean
        (tmp_path / "b" / "versions" / f"{result}.safetensors").unlink()
        assert client.get(f"/v1/weights/{result}").content == mean
        wait_for(lambda: server.listed("moved/updates/") == [])
