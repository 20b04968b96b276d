"""`fedfer runs`, `rounds` and `versions` against a server as a process, as an operator types them."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import prepared
import pytest
from server_helpers import (
    Phone,
    Server,
    free_port,
    plain_mean,
    serving,
    synthetic_update,
    synthetic_weights,
    wait_for_round,
)

from fedfer.cli.rounds import one_round
from fedfer.export.checkpoint import checkpoint_bytes, digest_of, load_checkpoint
from fedfer.export.contract import read_contract

KEY = "an-admin-key-for-tests-0123456789"


@pytest.fixture(scope="module")
def server(tiny_tflite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One run after its first round, which two phones trained."""
    directory = tmp_path_factory.mktemp("server")
    (directory / "admin.key").write_text(KEY)
    (directory / "admin.key").chmod(0o600)
    options = ["--clients", "2", "--rounds", "3", "--admin-key-file", str(directory / "admin.key")]
    with serving(tiny_tflite, directory / "data", *options) as server, server.client() as client:
        for i in range(2):
            phone = Phone(client, f"phone-{i}").enrol()
            phone.upload(phone.work(), synthetic_update(read_contract(tiny_tflite), i))
        wait_for_round(client, 1)
        yield server


def fedfer(server: Server, *arguments: str, key: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fedfer.cli.main", *arguments, "--server", server.url]
    if key is not None:
        path = server.log.with_suffix(".key")
        path.write_text(key)
        path.chmod(0o600)
        command += ["--admin-key-file", str(path)]
    return prepared.run(command)


def refused(server: Server, *arguments: str, key: str | None = None) -> str:
    """The one line that a failure is."""
    done = fedfer(server, *arguments, key=key)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert KEY not in done.stderr
    return done.stderr


def test_runs_as_a_table_and_as_json(server: Server) -> None:
    header, row, waiting = fedfer(server, "runs").stdout.splitlines()
    assert waiting.startswith("default waits for ")
    assert header.split()[:4] == ["run", "state", "round", "of"]
    assert row.split()[:4] == ["default", "running", "2", "3"]
    (body,) = json.loads(fedfer(server, "runs", "--json").stdout)["runs"]
    with server.client() as client:
        assert body == client.get("/v1/runs/default").json()
    shown = fedfer(server, "runs", "show", "default").stdout
    assert f"weights: {body['weights']}\n" in shown


def test_pausing_and_resuming(server: Server) -> None:
    assert "paused" in fedfer(server, "runs", "pause", "default", key=KEY).stdout
    assert "expected running" in refused(server, "runs", "pause", "default", key=KEY)
    done = fedfer(server, "runs", "resume", "default", "--json", key=KEY)
    assert json.loads(done.stdout)["state"] == "running"


def test_rounds_as_a_table_and_as_json(server: Server) -> None:
    lines = fedfer(server, "rounds").stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["round", "phase"],
        ["0", "done"],
        ["1", "done"],
        ["2", "open"],
    ]
    assert lines[2].split()[2:5] == ["2", "of", "2"]
    one = fedfer(server, "rounds", "default", "1").stdout.splitlines()
    assert one[2] == "outcome: committed"
    assert sorted(line.split()[0] for line in one[5:]) == ["phone-0", "phone-1"]
    bodies = json.loads(fedfer(server, "rounds", "default", "--json").stdout)["rounds"]
    assert [body["round"] for body in bodies] == [0, 1, 2]


def test_a_round_says_what_was_turned_away_and_why(tiny_tflite: Path, tmp_path: Path) -> None:
    contract, names = read_contract(tiny_tflite), ["a", "b", "c", "gone-astray"]
    scaled = {name: 100 * tensor for name, tensor in synthetic_weights(contract, 4).items()}
    sent = [*(synthetic_update(contract, seed) for seed in (1, 2, 3)), checkpoint_bytes(scaled, contract)]
    not_finite = checkpoint_bytes(
        {n: w * np.nan for n, w in synthetic_weights(contract, 4).items()}, contract
    )
    options = ["--clients", "4", "--rounds", "1", "--max-norm-ratio", "3"]
    with serving(tiny_tflite, tmp_path / "data", *options) as server, server.client() as client:
        for name, content in zip(names, sent, strict=True):
            phone = Phone(client, name).enrol()
            work = phone.work()
            if name == "a":
                assert phone.upload(work, content, num_examples=0).status_code == 400
                assert phone.upload(work, not_finite).json()["error"]["code"] == "not_finite"
            phone.upload(work, content)
        wait_for_round(client, 1)
        lines = fedfer(server, "rounds", "default", "1").stdout.splitlines()
        (*_, last) = json.loads(fedfer(server, "rounds", "default", "1", "--json").stdout)["updates"]
        versions = fedfer(server, "versions", "list", "default").stdout.splitlines()
        body = json.loads(fedfer(server, "versions", "list", "default", "--json").stdout)
    assert [line.split()[0] for line in lines[5:9]] == ["a", "b", "c", "gone-astray"]
    turned_away, *at_once = " ".join(line.strip() for line in lines[9:]).split(" refused when it came, from ")
    assert turned_away == f"turned away: norm_too_large: {last['reason']}"
    assert [words.split(": ")[:2] for words in at_once] == [
        ["a", "bad_num_examples"],
        ["a", "not_finite"],
    ]
    assert max(map(len, lines[4:])) <= 100
    assert [line.split()[3] for line in versions] == ["updates", "0", "3"]
    assert body["versions"][1]["updates"] == [digest_of(content) for content in sent[:3]]


def test_a_round_that_was_rolled_back_says_why() -> None:
    reason = "holdout accuracy of the candidate is 0.100\x1b[2J, of the version before 0.300; " + "much " * 8
    row = {"round": 3, "phase": "done", "outcome": "rolled_back", "reason": reason, "updates": []}
    row["refusals"] = [
        {"device_name": "a", "code": "stale", "reason": "old", "times": times} for times in (1, 2)
    ]
    first, second, empty, header, once, twice = one_round(row).split("\n")[2:]
    assert first.startswith("outcome: rolled_back: holdout accuracy of the candidate is 0.100 [2J, of")
    assert second.startswith("    ")
    assert (empty, header.split()[0]) == ("", "device")
    assert once == "refused when it came, from a: stale: old"
    assert twice == "refused when it came, from a (2 times): stale: old"
    assert max(len(first), len(second)) <= 100
    assert "outcome" not in one_round({**row, "phase": "open", "outcome": None, "reason": None})


def test_failures_are_one_line(server: Server, tmp_path: Path) -> None:
    assert "HTTP 404 unknown_run" in refused(server, "runs", "show", "nothing")
    assert "HTTP 404 unknown_round" in refused(server, "rounds", "default", "99")
    assert "401 bad_admin_key" in refused(server, "runs", "stop", "default", key="x" + KEY[1:])
    assert "401 bad_admin_key" in refused(server, "runs", "pause", "default")
    assert "'../x' is no name here" in refused(server, "runs", "show", "../x")
    assert "expected a run after `pause`" in refused(server, "runs", "pause")
    assert "expected no run after `list`" in refused(server, "runs", "list", "default")
    nobody = Server(server.process, tmp_path / "log", f"http://127.0.0.1:{free_port()}")
    assert "Connection refused" in refused(nobody, "runs")
    assert "is not the URL of a server" in refused(Server(server.process, tmp_path / "log", "x"), "runs")


def test_the_server_may_be_named_by_the_environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDFER_SERVER", server.url)
    monkeypatch.setenv("FEDFER_ADMIN_KEY", KEY)
    command = [sys.executable, "-m", "fedfer.cli.main", "runs"]
    assert "default" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
    done = subprocess.run([*command, "pause", "default"], capture_output=True, text=True, check=True)
    assert "paused" in done.stdout
    with server.client() as client:
        headers = {"Authorization": f"Bearer {KEY}"}
        assert client.post("/v1/runs/default/resume", headers=headers).status_code == httpx.codes.OK


def test_versions_are_listed_compared_and_tagged(server: Server) -> None:
    lines = fedfer(server, "versions", "list", "default").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["round", "0", "1"]
    first, second = json.loads(fedfer(server, "versions", "list", "default", "--json").stdout)["versions"]
    assert (second["parent_weights"], first["parent_weights"]) == (first["weights"], None)
    tagged = fedfer(server, "versions", "tag", "default", "1", "good", key=KEY)
    assert tagged.stdout == f"good is {second['weights']}\n"
    assert lines[2].endswith(" -")
    assert fedfer(server, "versions", "list", "default").stdout.splitlines()[2].endswith(" good")
    compared = json.loads(fedfer(server, "versions", "compare", "default", "0", "good", "--json").stdout)
    assert compared["weights_distance"] > 0
    assert compared["b"]["weights"] == second["weights"]
    shown = fedfer(server, "versions", "compare", "default", "0", "good").stdout
    assert f"distance of the weights     {compared['weights_distance']:.6f}" in shown
    assert "good is no tag any more" in fedfer(server, "versions", "untag", "default", "good", key=KEY).stdout
    assert "404 unknown_version" in refused(server, "versions", "untag", "default", "good", key=KEY)
    assert "401 bad_admin_key" in refused(server, "versions", "tag", "default", "1", "good")


def test_a_version_and_its_model_are_exported_whole(
    server: Server, tiny_tflite: Path, tmp_path: Path
) -> None:
    place, model = tmp_path / "best.safetensors", tmp_path / "model.tflite"
    options = ["--output", str(place), "--model-output", str(model)]
    done = fedfer(server, "versions", "export", "default", "1", *options)
    mean = plain_mean(read_contract(tiny_tflite), [(0, 5), (1, 5)])
    assert place.read_bytes() == mean
    assert model.read_bytes() == tiny_tflite.read_bytes()
    assert done.stdout.splitlines()[0] == f"wrote {place}: {len(mean)} bytes, sha256 {digest_of(mean)}"
    assert sorted(tmp_path.iterdir()) == sorted([place, model])
    unwritable = ["versions", "export", "default", "1", "--output", str(tmp_path / "none" / "x")]
    assert "cannot write" in refused(server, *unwritable)
    assert "no version 77" in refused(server, "versions", "export", "default", "77", "--output", str(place))
    assert "export and average, which need it" in refused(server, "versions", "export", "default", "1")
    assert "expected `fedfer versions tag RUN VERSION TAG`" in refused(server, "versions", "tag", "default")


@pytest.fixture(scope="module")
def trained(tiny_tflite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One run after two rounds of one phone."""
    data_dir = tmp_path_factory.mktemp("trained") / "data"
    with (
        serving(tiny_tflite, data_dir, "--clients", "1", "--rounds", "2") as server,
        server.client() as client,
    ):
        phone = Phone(client, "phone").enrol()
        for number in (1, 2):
            phone.upload(phone.work(), synthetic_update(read_contract(tiny_tflite), number))
            wait_for_round(client, number)
        yield server


def test_the_mean_of_the_last_versions(trained: Server, tiny_tflite: Path, tmp_path: Path) -> None:
    server, contract = trained, read_contract(tiny_tflite)
    place, model = tmp_path / "mean.safetensors", tmp_path / "m.tflite"
    done = fedfer(
        server, "versions", "average", "default", "2", "--output", str(place), "--model-output", str(model)
    )
    first, second = done.stdout.splitlines()
    sha256 = digest_of(place.read_bytes())
    assert first == f"wrote {place}: the mean of the versions of rounds 1, 2, sha256 {sha256}"
    assert second.startswith(f"wrote {model}: ")
    with server.client() as client:
        names = [version["weights"] for version in client.get("/v1/runs/default/versions").json()["versions"]]
        contents = [client.get(f"/v1/weights/{name}").content for name in names[1:]]
    for number, content in enumerate(contents):
        (tmp_path / f"{number}").write_bytes(content)
    one, two = (load_checkpoint(tmp_path / f"{number}", contract) for number in range(2))
    mean = load_checkpoint(place, contract)
    for name, tensor in mean.items():
        assert np.array_equal(tensor, ((one[name].astype(float) + two[name]) / 2).astype(np.float32)), name
    body = json.loads(
        fedfer(server, "versions", "average", "default", "2", "--output", str(place), "--json").stdout
    )
    assert body == {"rounds": [1, 2], "weights": sha256}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "m.tflite", "mean.safetensors"]


@pytest.mark.parametrize(
    ("count", "message"),
    [
        ("3", "has 2 of the last 3 versions"),
        ("1", "COUNT is 1; expected"),
        ("all", "COUNT is all"),
        ("²", "'²' is no name here"),
        ("9" * 5000, "COUNT is 999"),
    ],
)
def test_a_mean_that_cannot_be(trained: Server, tmp_path: Path, count: str, message: str) -> None:
    place = tmp_path / "mean.safetensors"
    assert message in refused(trained, "versions", "average", "default", count, "--output", str(place))
    assert not place.exists()


def test_rolling_back(server: Server) -> None:
    """Last of this file: the run goes on from its first version."""
    with server.client() as client:
        before = client.get("/v1/runs/default/versions").json()["versions"]
        done = fedfer(server, "versions", "rollback", "default", "0", key=KEY)
        assert "starts from 0" in done.stdout, done.stderr
        run = client.get("/v1/runs/default").json()
        assert (run["weights"], run["round"]) == (before[0]["weights"], 3)
