"""Who may reach a server: what `fedfer serve` refuses to start with, TLS, and proxies, over real sockets."""

import json
import re
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import prepared
import pytest
import trustme
from server_helpers import SERVE, Phone, Server, serving

from fedfer.aggregator.tls import server_context
from fedfer.cli.key_files import write_new_key
from fedfer.model.errors import UsageError


@dataclass(frozen=True)
class Certificates:
    """PEM files for 127.0.0.1: the authority's certificate, the server's chain and its key."""

    authority: Path
    chain: Path
    key: Path

    @property
    def options(self) -> tuple[str, ...]:
        return ("--tls-certificate", str(self.chain), "--tls-key", str(self.key))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    directory = tmp_path_factory.mktemp("tls")
    files = Certificates(directory / "ca.pem", directory / "chain.pem", directory / "key.pem")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    authority.cert_pem.write_to_path(str(files.authority))
    for blob in issued.cert_chain_pems:
        blob.write_to_path(str(files.chain), append=True)
    issued.private_key_pem.write_to_path(str(files.key))
    return files


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    write_new_key(tmp_path / "enrol.key")
    return tmp_path / "enrol.key"


def refused(model: Path, data_dir: Path, *options: str) -> str:
    """What a server that must not start says."""
    command = [*SERVE, str(model), "--data-dir", str(data_dir), "--port", "0", *options]
    done = prepared.run(command)
    assert (done.returncode, done.stdout) == (1, "")
    assert not data_dir.exists()
    *warnings, error = done.stderr.splitlines()
    assert all(line.startswith("fedfer serve: ") for line in (*warnings, error))
    return error


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--host", "0.0.0.0"], "without an enrolment key would let anybody in"),
        (["--host", "::"], "without an enrolment key would let anybody in"),
        (["--trusted-proxy", "127.0.0.1"], "through a proxy without an enrolment key"),
        (["--enrol-key-file", "{key}", "--admin-key-file", "{key}"], "also the admin key"),
        (["--enrol-key-file", "{key}", "--open-enrolment"], "leave it out"),
        (["--enrol-key-file", "{key}.none"], "No such file"),
        (["--admin-key-file", "{short}"], "expected 16 to 1024"),
        (["--tls-key", "{key}"], "belong together"),
        (["--tls-certificate", "{key}", "--tls-key", "{key}"], "not a certificate and its key"),
        (["--tls-certificate", "{key}.none", "--tls-key", "{key}"], "cannot read"),
        (["--trusted-proxy", "proxy.example", "--open-enrolment"], "expected an IP address or network"),
        (["--device-rate", "-1"], "device-rate is -1"),
        (["--device-rate", "nan"], "device-rate is nan"),
        (["--address-connections", "0"], "address-connections is 0"),
    ],
)
def test_what_a_server_does_not_start_with(
    tiny_tflite: Path, tmp_path: Path, key_file: Path, options: list[str], words: str
) -> None:
    short = tmp_path / "short.key"
    short.write_text("secret")
    given = [option.format(key=key_file, short=short) for option in options]
    error = refused(tiny_tflite, tmp_path / "data", *given)
    assert words in error
    assert key_file.read_text().strip() not in error


def test_open_enrolment_and_keys_let_it_listen_for_others(
    tiny_tflite: Path, tmp_path: Path, key_file: Path
) -> None:
    for number, options in enumerate((["--open-enrolment"], ["--enrol-key-file", str(key_file)])):
        with serving(tiny_tflite, tmp_path / f"data{number}", "--host", "0.0.0.0", *options) as server:
            assert httpx.get(f"http://127.0.0.1:{server.port}/healthz").status_code == 200
        assert "without TLS" in "\n".join(server.lines)


def test_tls(tiny_tflite: Path, tmp_path: Path, certificates: Certificates) -> None:
    trusting = ssl.create_default_context(cafile=certificates.authority)
    with serving(tiny_tflite, tmp_path / "data", *certificates.options) as server:
        assert server.url.startswith("https://")
        with httpx.Client(base_url=server.url, verify=trusting) as client:
            reply = client.get("/v1/runs/default")
            assert reply.status_code == 200
            assert reply.headers["strict-transport-security"] == "max-age=31536000"
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(f"{server.url}/healthz")
        old = ssl.create_default_context(cafile=certificates.authority)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        assert httpx.get(f"{server.url}/healthz", verify=old).status_code == 200
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{server.port}/healthz")
        assert httpx.get(f"{server.url}/healthz", verify=trusting).status_code == 200
        assert server.stop() == 0


def test_a_key_behind_a_passphrase_is_refused_instead_of_asked_for(
    tmp_path: Path, certificates: Certificates
) -> None:
    locked = tmp_path / "locked.pem"
    command = ["openssl", "pkey", "-in", str(certificates.key), "-aes256", "-passout", "pass:abc"]
    try:
        locked.write_bytes(subprocess.run(command, capture_output=True, check=True).stdout)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    with pytest.raises(UsageError, match="passphrase"):
        server_context(certificates.chain, locked)


def test_another_certificates_key_is_refused(certificates: Certificates, tmp_path: Path) -> None:
    trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(str(tmp_path / "other.pem"))
    with pytest.raises(UsageError, match="KEY_VALUES_MISMATCH"):
        server_context(certificates.chain, tmp_path / "other.pem")


FORWARDED = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}


@pytest.fixture(scope="module")
def behind_proxy(tiny_tflite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server that believes what 127.0.0.1 forwards, with three calls a second and address at most."""
    data_dir = tmp_path_factory.mktemp("proxy") / "data"
    options = ("--trusted-proxy", "127.0.0.0/8", "--open-enrolment", "--address-rate", "0.3")
    with serving(tiny_tflite, data_dir, *options) as server, server.client() as client:
        yield client


def test_a_trusted_proxys_headers_are_believed(behind_proxy: httpx.Client) -> None:
    assert "strict-transport-security" in behind_proxy.get("/healthz", headers=FORWARDED).headers
    assert "strict-transport-security" not in behind_proxy.get("/healthz").headers


def test_calls_are_counted_for_the_address_that_the_proxy_names(behind_proxy: httpx.Client) -> None:
    """Whatever the caller itself wrote before: only the last address is the proxy's word."""
    statuses = [
        behind_proxy.get("/healthz", headers={"X-Forwarded-For": f"{i}.1.1.1, 198.51.100.7"}).status_code
        for i in range(1, 6)
    ]
    assert statuses == [200] * 3 + [429] * 2
    refusal = behind_proxy.get("/healthz", headers={"X-Forwarded-For": "198.51.100.7"})
    assert refusal.json()["error"]["code"] == "too_many_calls"
    assert 1 <= int(refusal.headers["retry-after"]) <= 4
    assert behind_proxy.get("/healthz", headers={"X-Forwarded-For": "198.51.100.8"}).status_code == 200
    assert behind_proxy.get("/healthz").status_code == 200


def test_without_a_trusted_proxy_no_header_is_believed(tiny_tflite: Path, tmp_path: Path) -> None:
    options = ("--address-rate", "0.1", "--device-rate", "0.2")
    with serving(tiny_tflite, tmp_path / "data", *options) as server, server.client() as client:
        for _ in range(5):  # this machine's own address has no limit
            reply = client.get("/healthz", headers=FORWARDED)
            assert reply.status_code == 200
            assert "strict-transport-security" not in reply.headers
        ours, theirs = {"Authorization": "Bearer abc"}, {"Authorization": "Bearer xyz"}
        assert [client.post("/v1/work", headers=ours).status_code for _ in range(3)] == [401, 401, 429]
        assert client.post("/v1/work", headers=theirs).status_code == 401


def test_enrolment_wants_its_key(tiny_tflite: Path, tmp_path: Path, key_file: Path) -> None:
    key = key_file.read_text().strip()
    with serving(tiny_tflite, tmp_path / "data", "--enrol-key-file", str(key_file)) as server:
        with server.client() as client:
            for given in ({}, {"Authorization": f"Bearer {key}x"}, {"Authorization": f"Basic {key}"}):
                reply = client.post("/v1/devices", json={"name": "a"}, headers=given)
                assert (reply.status_code, reply.json()["error"]["code"]) == (401, "bad_enrol_key")
                assert reply.headers["www-authenticate"] == "Bearer"
            known = {"Authorization": f"Bearer {key}"}
            assert client.post("/v1/devices", json={"name": "a"}, headers=known).status_code == 201
            assert client.post("/v1/work", headers=known).status_code == 401
        assert key not in "\n".join(server.lines)


TOKEN = re.compile(r"(?<![\w-])[\w-]{43}(?![\w-])")  # as long as a token or a new key; digests are longer


def devices(server: Server, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fedfer.cli.main", "devices", "--server", server.url, "--count", "2"]
    data = ["--data", "drawn", "--examples-per-device", "4", "--give-up-sec", "5"]
    return prepared.run([*command, *data, *options])


def send_everywhere(http: httpx.Client, *secrets: str) -> None:
    """In paths, queries, headers, cookies and bodies."""
    for secret in secrets:
        for path in ("/v1/work", f"/v1/devices/{secret}", f"/v1/models/{secret}"):
            headers = {"Authorization": f"Bearer {secret}", "Cookie": secret, "X-Key": secret}
            http.post(path, headers=headers, json={"name": 5, "token": secret})
            http.get(path, params={"token": secret}, headers=headers)


def test_logs_in_json_hold_no_secret_either(tiny_tflite: Path, tmp_path: Path, key_file: Path) -> None:
    admin_file = tmp_path / "admin.key"
    write_new_key(admin_file)
    key, admin = (path.read_text().strip() for path in (key_file, admin_file))
    options = ("--enrol-key-file", str(key_file), "--admin-key-file", str(admin_file), "--log-format", "json")
    with serving(tiny_tflite, tmp_path / "data", *options) as server, server.client() as client:
        token = Phone(client, "phone").enrol(key=key).token
        send_everywhere(client, token, key, admin)
        client.delete(f"/v1/devices/{token}", headers={"Authorization": f"Bearer {admin}"})
        assert server.stop() == 0
    refusals = [line for line in map(json.loads, server.lines) if "code" in line]
    assert {"unknown_device", "bad_token"} <= {line["code"] for line in refusals}
    assert not TOKEN.findall(server.log.read_text())
    assert not [secret for secret in (token, key, admin) if secret in server.log.read_text()]


def test_a_fleet_trains_over_tls_with_keys_and_no_secret_is_logged(
    tiny_tflite: Path, tmp_path: Path, key_file: Path, certificates: Certificates
) -> None:
    """The logs of a whole session, refusals included, hold neither a key nor a token."""
    write_new_key(tmp_path / "other.key")
    keys = [path.read_text().strip() for path in (key_file, tmp_path / "other.key")]
    rounds = ("--rounds", "2", "--clients", "2", "--local-epochs", "1", "--batch-size", "4")
    access = (*certificates.options, "--enrol-key-file", str(key_file))
    trusted = ("--ca-file", str(certificates.authority))
    with serving(tiny_tflite, tmp_path / "data", *rounds, *access) as server:
        stranger = devices(server, *trusted, "--enrol-key-file", str(tmp_path / "other.key"))
        nobody = devices(server, *trusted)
        blind = devices(server, "--enrol-key-file", str(key_file))
        fleet = devices(server, *trusted, "--enrol-key-file", str(key_file))
        with httpx.Client(base_url=server.url, verify=ssl.create_default_context(cafile=trusted[1])) as http:
            token = Phone(http, "curl").enrol(key=keys[0]).token
            send_everywhere(http, token, *keys)
        assert server.stop() == 0
    for failed, words in ((stranger, "bad_enrol_key"), (nobody, "bad_enrol_key"), (blind, "CERTIFICATE")):
        assert failed.returncode == 1
        assert words in failed.stderr
        assert "Traceback" not in failed.stderr
    assert fleet.returncode == 0, fleet.stderr
    assert "2 rounds: 4 updates of 16 examples" in fleet.stdout
    told = "\n".join([*server.lines, *(run.stdout + run.stderr for run in (stranger, nobody, blind, fleet))])
    assert "accepted" in told
    assert not TOKEN.findall(told)
    assert not [secret for secret in (token, *keys) if secret in told]


def test_with_an_enrolment_key_strangers_read_nothing(
    tiny_tflite: Path, tmp_path: Path, key_file: Path
) -> None:
    admin_file = tmp_path / "admin.key"
    write_new_key(admin_file)
    options = ("--enrol-key-file", str(key_file), "--admin-key-file", str(admin_file))
    with serving(tiny_tflite, tmp_path / "data", *options) as server, server.client() as client:
        phone = Phone(client, "one").enrol(key=key_file.read_text().strip())
        admin = {"Authorization": f"Bearer {admin_file.read_text().strip()}"}
        run = client.get("/v1/runs/default", headers=phone.headers).json()
        paths = [
            f"/v1/models/{run['model']}",
            f"/v1/weights/{run['weights']}",
            "/v1/runs",
            "/v1/runs/default",
        ]
        paths += ["/v1/runs/default/rounds", "/v1/runs/default/rounds/0", "/v1/runs/default/versions"]
        paths += ["/v1/runs/default/versions/compare?a=0&b=0"]
        wrong = {"Authorization": f"Bearer {key_file.read_text().strip()}"}
        for path in paths:
            for headers in ({}, wrong):
                reply = client.get(path, headers=headers)
                assert (reply.status_code, reply.json()["error"]["code"]) == (401, "bad_token"), path
                assert "or with the admin key" in reply.json()["error"]["reason"]
            for headers in (phone.headers, admin):
                assert client.get(path, headers=headers).status_code == 200, path
        described = client.get("/openapi.json").json()["paths"]
        reads = {path for path, methods in described.items() if "get" in methods and path.startswith("/v1")}
        assert len(reads) == len(paths)
