"""The files of deploy/ against the programs that read them, as far as these are installed: nginx and systemd
are run; the Dockerfile and the compose file are only read."""

import argparse
import re
import shutil
import ssl
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
import yaml
from packaging.requirements import Requirement
from server_helpers import Phone, free_port, serving, synthetic_update, wait_for_round
from waiting import wait_for

from fedfer.aggregator.bucket import parse_url
from fedfer.aggregator.metrics import Metrics, RunSample, StateCollector, StateSample
from fedfer.cli import serve
from fedfer.export.contract import read_contract

SAMPLE = StateSample(1, 10**9, True, [RunSample("default", "running", 1, 0, 1.9, 0.1)])
ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return loaded


def test_compose_mounts_files_that_are_here_or_told_of(compose: dict[str, Any]) -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    for service in compose["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            if source.startswith("./"):
                name = source.removeprefix("./")
                assert (DEPLOY / name).is_file() or name in text.partition("name: fedfer")[0], name
            else:
                assert source in compose["volumes"]
        assert set(service["networks"]) <= set(compose["networks"])
        assert set(service.get("depends_on", ())) <= set(compose["services"])


def test_compose_has_no_default_secrets(compose: dict[str, Any]) -> None:
    used = re.findall(r"\$\{(\w+)([^}]*)\}", (DEPLOY / "compose.yaml").read_text())
    assert {name for name, _ in used} >= {"POSTGRES_PASSWORD", "FEDFER_ADMIN_KEY", "FEDFER_ENROL_KEY"}
    assert {default for _, default in used} == {":?"}
    published = [name for name, service in compose["services"].items() if "ports" in service]
    assert published == ["proxy"]


def test_the_aggregator_takes_the_settings_of_compose_and_file(compose: dict[str, Any]) -> None:
    service = compose["services"]["aggregator"]
    environ = {name: value.replace(":?", "") for name, value in service["environment"].items()}
    command = [
        word.replace("/etc/fedfer/fedfer.toml", str(DEPLOY / "fedfer.toml")) for word in service["command"]
    ]
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    settings = serve.settings_of(parser.parse_args(command[1:]), environ)
    assert settings["host"].source == "environment FEDFER_HOST"
    assert settings["clients"].source == str(DEPLOY / "fedfer.toml")
    if "weights_url" in settings:
        assert parse_url(settings["weights_url"].value).bucket == "weights"


def copied() -> set[str]:
    """What the Dockerfile copies from the repository."""
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    return {
        name
        for names in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE)
        for name in names.split()
    }


def test_the_dockerfile_copies_what_there_is() -> None:
    for name in copied():
        assert (ROOT / name).exists(), name
    assert {"model", "export", "aggregator", "android_stub", "cli"} <= copied()


def test_the_image_runs_as_the_owner_of_its_data() -> None:
    """Its user has the group that it runs with, and the data directory is that user's alone."""
    text = re.sub(r"\s*\\\n\s*", " ", (DEPLOY / "Dockerfile").read_text())
    user = re.search(r"^USER (\d+):(\d+)$", text, re.MULTILINE)
    assert user is not None
    uid, gid = user.groups()
    assert f"groupadd --gid {gid} " in text
    assert f"useradd --uid {uid} --gid {gid} " in text
    assert f"install --directory --owner {uid} --group {gid} --mode 700 /var/lib/fedfer" in text


def test_the_image_serves_beyond_itself_whatever_the_command() -> None:
    """`docker run fedfer serve MODEL` takes the place of CMD: what has to hold is in the environment."""
    text = (DEPLOY / "Dockerfile").read_text()
    environ = dict(re.findall(r"(FEDFER_\w+)=(\S+)", text))
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    settings = serve.settings_of(parser.parse_args(["model.tflite"]), environ)
    assert (settings["host"].value, settings["data_dir"].value) == ("0.0.0.0", Path("/var/lib/fedfer"))
    assert re.search(rf"^EXPOSE {settings['port'].value}$", text, re.MULTILINE)
    assert f"http://127.0.0.1:{settings['port'].value}/readyz" in text


def test_only_what_the_dockerfile_copies_goes_to_the_builder() -> None:
    """Keys and .env lie in deploy/, models and data anywhere: none of it may be sent or copied."""
    ignored, *lines = [
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")
    ]
    assert ignored == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == copied()
    assert {"**/__pycache__", "**/*.tflite", "**/*.safetensors", "**/*.db"} <= set(lines)


def test_the_locked_requirements_are_the_extras_and_what_they_need() -> None:
    command = [sys.executable, str(DEPLOY / "locked.py")]
    done = subprocess.run([*command, "serve", "postgres", "s3"], capture_output=True, text=True, check=True)
    locked = {normalized(name) for name in re.findall(r"^([\w.-]+)==", done.stdout, re.MULTILINE)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        line for extra in ("serve", "postgres", "s3") for line in project["optional-dependencies"][extra]
    ]
    assert needed([*project["dependencies"], *wanted], {""}) <= locked
    assert locked.isdisjoint({"tensorflow", "keras", "pytest", "httpx", "matplotlib"})
    for block in re.split(r"^(?=\w)", done.stdout, flags=re.MULTILINE)[1:]:
        assert re.search(r"^    --hash=sha256:[0-9a-f]{64}", block, re.MULTILINE), block
    wrong = subprocess.run([*command, "no-such"], capture_output=True, text=True, check=False)
    assert "fedfer has no extra 'no-such'" in wrong.stderr


def test_the_locked_requirements_keep_the_markers_of_dependencies() -> None:
    """One runtime of the two, and what only that one needs: on Python 3.11 the other is 90 MB of nothing."""
    command = [sys.executable, str(DEPLOY / "locked.py"), "serve"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = re.findall(r"^(\w.*?) *\\$", done.stdout, re.MULTILINE)
    taken = {}
    for version in ("3.11", "3.12"):
        on = {"python_version": version, "python_full_version": f"{version}.2", "sys_platform": "linux"}
        requirements = [Requirement(line) for line in lines]
        taken[version] = {r.name for r in requirements if r.marker is None or r.marker.evaluate(on)}
    assert taken["3.11"] - taken["3.12"] == {"tflite-runtime"}
    assert taken["3.12"] - taken["3.11"] >= {"ai-edge-litert", "ml-dtypes", "tqdm"}
    assert {"numpy", "fastapi", "flatbuffers"} <= taken["3.11"] & taken["3.12"]


def needed(lines: Iterable[str], extras: set[str]) -> set[str]:
    """Names of all that these requirements, of something with extras, need on this machine."""
    found: set[str] = set()
    for requirement in map(Requirement, lines):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras | {""}):
            within = needed(distribution(requirement.name).requires or (), requirement.extras)
            found |= {normalized(requirement.name)} | within
    return found


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "fedfer.service"
    text = (DEPLOY / "fedfer.service").read_text()
    assert "/opt/fedfer/venv/bin/fedfer serve" in text
    unit.write_text(text.replace("/opt/fedfer/venv/bin/fedfer", shutil.which("true") or "true"))
    command = ["systemd-analyze", "verify", "--man=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool here (Debian: prometheus)")
def test_prometheus_takes_its_files() -> None:
    command = ["promtool", "check", "config", str(DEPLOY / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 rules found" in done.stdout


def test_alerts_name_metrics_that_there_are() -> None:
    metrics = Metrics()
    names = {family.name for family in metrics.registry.collect()}
    names |= {family.name for family in StateCollector(lambda: SAMPLE).collect()}
    used = set(re.findall(r"\b(fedfer_\w+)", (DEPLOY / "alerts.yml").read_text()))
    used |= set(re.findall(r"`(fedfer_[a-z_]+)", (ROOT / "docs/deploying.md").read_text()))
    assert {name.removesuffix("_total") for name in used} - names == set()


def nginx() -> str | None:
    return shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")


@contextmanager
def proxying(directory: Path, upstream: int) -> Iterator[tuple[str, ssl.SSLContext]]:
    """deploy/nginx.conf with other paths and ports, running; its URL, and who trusts its certificate."""
    authority, port = trustme.CA(), free_port()
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(directory / "key.pem")
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(directory / "certificate.pem", append=True)
    text = (DEPLOY / "nginx.conf").read_text()
    for old, new in {
        "listen 443": f"listen 127.0.0.1:{port}",
        "aggregator:8750": f"127.0.0.1:{upstream}",
        "/etc/nginx/": f"{directory}/",
        "/var/run/nginx.pid": f"{directory}/nginx.pid",
    }.items():
        assert old in text
        text = text.replace(old, new)
    (directory / "nginx.conf").write_text(text)
    command = [nginx() or "", "-c", str(directory / "nginx.conf"), "-p", str(directory)]
    subprocess.run([*command, "-t", "-q"], check=True)
    with subprocess.Popen([*command, "-g", "daemon off;"]) as process:
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        try:
            wait_for((directory / "nginx.pid").exists)
            yield f"https://localhost:{port}", trusting
        finally:
            process.terminate()


@pytest.mark.skipif(nginx() is None, reason="no nginx here")
def test_a_round_through_the_proxy(tiny_tflite: Path, tmp_path: Path) -> None:
    """Over TLS; what is for operators is hidden."""
    with (
        serving(tiny_tflite, tmp_path / "data", "--clients", "1", "--rounds", "1") as server,
        proxying(tmp_path, server.port) as (url, trusting),
        httpx.Client(base_url=url, verify=trusting, trust_env=False) as client,
    ):
        phone = Phone(client, "phone").enrol()
        work = phone.work()
        body = synthetic_update(read_contract(tiny_tflite), 1)
        assert phone.upload(work, body).status_code == 200
        assert client.get(f"/v1/models/{work['model']}").content == tiny_tflite.read_bytes()
        wait_for_round(client, 1)
        with server.client() as inside:
            assert inside.get("/openapi.json").status_code == 200
        for path in ("/metrics", "/readyz", "/docs", "/openapi.json"):
            assert client.get(path).status_code == 404
