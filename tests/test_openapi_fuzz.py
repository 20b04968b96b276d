"""schemathesis makes requests out of the OpenAPI description, fit and unfit, to a real server: no call fails,
and every answer is one that the description has."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from server_helpers import Phone, Server, serving

from fedfer.cli.key_files import write_new_key

MAX_SECS = (12, 60, 300)  # a busy machine does not come through all calls in the first of them
CHECKS = "not_a_server_error,content_type_conformance,response_schema_conformance,status_code_conformance"
pytestmark = pytest.mark.skipif(find_spec("schemathesis") is None, reason="schemathesis is not installed")


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "admin.key"
    write_new_key(path)
    return path


@pytest.fixture(scope="module")
def server(tiny_tflite: Path, key_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    data_dir = tmp_path_factory.mktemp("openapi") / "data"
    options = ("--admin-key-file", str(key_file), "--device-rate", "0")
    with serving(tiny_tflite, data_dir, *options) as server:
        yield server


def requests_of(server: Server, token: str, directory: Path, seed: int) -> str:
    """What schemathesis says after its requests with this token, to all calls if there is time for that."""
    num_calls = len(calls(server))
    for max_sec in MAX_SECS:
        told = requests_within(max_sec, server, token, directory, seed)
        if re.search(rf"Tested: {num_calls}\b", told):
            break
    return told


def calls(server: Server) -> list[tuple[str, str]]:
    """Path and method of all that the server describes."""
    with server.client() as client:
        paths = client.get("/openapi.json").json()["paths"]
    return [(path, method) for path, methods in paths.items() for method in methods]


def requests_within(max_sec: int, server: Server, token: str, directory: Path, seed: int) -> str:
    options = {
        "--header": f"Authorization: Bearer {token}",
        "--checks": CHECKS,
        "--phases": "coverage,fuzzing",
        "--max-examples": "15",
        "--max-time": str(max_sec),
        "--seed": str(seed),
        "--suppress-health-check": "all",
    }
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json", "--no-color"]
    command += [f"{name}={value}" for name, value in options.items()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=directory, timeout=max_sec + 300)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout


def check(server: Server, told: str) -> None:
    """All calls were made, and the server is as well as before."""
    with server.client() as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        assert client.get("/v1/runs/default").status_code == 200
    assert re.search(rf"Tested: {len(calls(server))}\b", told), told[-3000:]
    assert not [line for line in server.lines if "ERROR" in line or "Traceback" in line]


def test_with_a_devices_token(server: Server, tmp_path: Path) -> None:
    with server.client() as client:
        phone = Phone(client, "fuzzer").enrol()
        assert phone.work()["action"] == "train"
    check(server, requests_of(server, phone.token, tmp_path, seed=1))


def test_with_the_admin_key_and_names_that_exist(server: Server, key_file: Path, tmp_path: Path) -> None:
    """The names let requests pass the first check, so that what is behind it is reached too."""
    with server.client() as client:
        run = client.get("/v1/runs/default").json()
    known = {"path.run": "default", "path.round": 1, "query.base_weights": run["weights"]}
    lines = [f"{json.dumps(name)} = {json.dumps(value)}" for name, value in known.items()]
    (tmp_path / "schemathesis.toml").write_text("\n".join(["[parameters]", *lines, ""]))
    check(server, requests_of(server, key_file.read_text().strip(), tmp_path, seed=2))
