"""`fedfer devices` killed by SIGKILL in the middle of a training, and the same command again: the same phones
go on from their last steps, to the same weights."""

import os
import re
import signal
from pathlib import Path

import httpx
import prepared
import pytest
from server_helpers import serving
from waiting import PATIENCE_SEC, children_of, wait_for

from fedfer.android_stub.cache import Cache
from fedfer.android_stub.device_files import DeviceFiles, devices_directory, held, sharing
from fedfer.android_stub.progress import HEADER, MAGIC
from fedfer.export.runtime import available_runtimes
from fedfer.model.errors import UsageError

STEPS = (
    "--clients",
    "2",
    "--rounds",
    "1",
    "--local-epochs",
    "150",
    "--batch-size",
    "2",
    "--learning-rate",
    "0.01",
)
NUM_STEPS = 150 * 3  # five images in batches of 2


def devices(url: str, directory: Path, runtime: str, cache: Path) -> prepared.Running:
    """Two phones of five images in one process; what they say goes to `directory`/out."""
    command = [*prepared.COMMAND, "devices", "--server", url, "--count", "2"]
    options = ["--data", "drawn", "--examples-per-device", "5", "--processes", "1", "--runtime", runtime]
    directory.mkdir()
    with (directory / "out").open("w") as out:
        return prepared.start(
            [*command, *options, "--cache-dir", str(cache)], stdout=out, stderr=out, start_new_session=True
        )


def steps_kept(cache: Path) -> int:
    """The newest step in any phone's file."""
    newest = 0
    for path in cache.glob("devices/*/*.progress"):
        content = path.read_bytes()
        for start in (0, len(content) // 2):
            if content[start : start + len(MAGIC)] == MAGIC:
                newest = max(newest, HEADER.unpack_from(content, start)[2])
    return newest


def final_weights(phones: prepared.Running, directory: Path) -> str:
    assert phones.wait(PATIENCE_SEC) == 0, (directory / "out").read_text()
    found = re.search(r"^final weights (\w{64})$", (directory / "out").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def undisturbed(tiny_tflite: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Final weights by runtime."""
    found, folder = {}, tmp_path_factory.mktemp("undisturbed")
    for runtime in available_runtimes():
        with serving(tiny_tflite, folder / f"server-{runtime}", *STEPS) as server:
            phones = devices(server.url, folder / runtime, runtime, folder / f"cache-{runtime}")
            found[runtime] = final_weights(phones, folder / runtime)
    return found


@pytest.mark.parametrize("victim", ["process of the phones", "command"])
@pytest.mark.parametrize("runtime", available_runtimes())
def test_killed_phones_go_on_from_their_last_steps(
    runtime: str, victim: str, undisturbed: dict[str, str], tiny_tflite: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    with serving(tiny_tflite, tmp_path / "server", *STEPS) as server, server.client() as client:
        for attempt, least in enumerate((20, 120)):  # the second time from where the first was gone on with
            phones = devices(server.url, tmp_path / f"killed-{attempt}", runtime, cache)
            wait_for(lambda least=least: steps_kept(cache) >= least)  # type: ignore[misc]
            children = children_of(phones.pid)
            (worker,) = (
                pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
            )
            os.kill(worker if victim != "command" else phones.pid, signal.SIGKILL)
            assert phones.wait(PATIENCE_SEC) == (1 if victim != "command" else -9)
            assert steps_kept(cache) < NUM_STEPS
        last = devices(server.url, tmp_path / "last", runtime, cache)
        assert final_weights(last, tmp_path / "last") == undisturbed[runtime]
        assert_same_devices(client)
    for directory, least in ((tmp_path / "killed-1", 20), (tmp_path / "last", 120)):
        told = re.search(
            r"^phone-\d: went on with round 1 after its step (\d+)$", out_of(directory), re.MULTILINE
        )
        assert told is None or least <= int(told[1]) < NUM_STEPS
    assert told is not None
    assert_tidy(cache)


def out_of(directory: Path) -> str:
    return (directory / "out").read_text()


def assert_same_devices(client: httpx.Client) -> None:
    """Nobody enrolled a second time, nobody was counted twice."""
    assert client.get("/v1/runs").json()["num_devices"] == 2
    (sent,) = (record["updates"] for record in client.get("/v1/runs/default/rounds").json()["rounds"][1:])
    assert sorted(update["device_name"] for update in sent) == ["phone-0", "phone-1"]


def assert_tidy(cache: Path) -> None:
    """What is left in the cache of the devices: their tokens, which others may not read."""
    (directory,) = (cache / "devices").iterdir()
    assert directory.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in directory.iterdir()} == {"lock", "phone-0.token", "phone-1.token"}
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in directory.iterdir())


# --- the files themselves


def test_tokens_are_kept_by_server(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    one, other = (DeviceFiles(devices_directory(cache, f"http://127.0.0.1:{n}"), "phone-0") for n in (1, 2))
    assert one.token() is None
    one.keep_token("first")
    one.keep_token("second")
    assert one.token() == "second"
    assert other.token() is None
    assert DeviceFiles(devices_directory(cache, "http://127.0.0.1:1/"), "phone-0").token() == "second"
    assert DeviceFiles(devices_directory(cache, "http://127.0.0.1:1/"), "phone-1").token() is None


@pytest.mark.parametrize("content", [b"", b"two words", b"x" * 257, b"line\n", b"\xff\xfe"])
def test_what_is_no_token_is_not_sent(content: bytes, tmp_path: Path) -> None:
    directory = devices_directory(Cache(tmp_path), "http://h:1")
    (directory / "phone-0.token").write_bytes(content)
    assert DeviceFiles(directory, "phone-0").token() is None


def test_a_directory_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    files = DeviceFiles(tmp_path / "gone", "phone-0")
    with pytest.raises(
        UsageError, match=r"cannot use .*gone for what phones keep: No such file.*--cache-dir"
    ):
        files.keep_token("token")
    (tmp_path / "devices").write_text("a file")
    with pytest.raises(UsageError, match=r"cannot use .* as a cache"):
        devices_directory(Cache(tmp_path), "http://h:1")


def test_devices_belong_to_one_fleet_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as any of its processes lives."""
    monkeypatch.setattr("fedfer.android_stub.device_files.ENDING_SEC", 0.2)
    with held(tmp_path) as first, sharing(tmp_path):
        assert first
        with held(tmp_path) as second:
            assert not second
    with sharing(tmp_path), held(tmp_path) as during:
        assert not during
    with held(tmp_path) as afterwards:
        assert afterwards
