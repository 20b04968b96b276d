"""Files in an S3 bucket, against moto's server over HTTP."""

import hashlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3 import BUCKET, CREDENTIALS, S3Server, s3_server

from fedfer.aggregator.bucket import PROBE_SEC, Bucket, BucketUrl, parse_url
from fedfer.model.errors import StoreError, UsageError


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def bucket(server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    return Bucket(parse_url(server.url(tmp_path.name)))


@pytest.mark.parametrize("size", [0, 1, 12_345_678])
def test_what_is_put_comes_back(bucket: Bucket, tmp_path: Path, size: int, server: S3Server) -> None:
    """Also in parts: 12 MB are three of S3's 5 MiB."""
    content = hashlib.shake_128(b"x").digest(size)
    (tmp_path / "file").write_bytes(content)
    assert bucket.size("a/b") is None
    bucket.put("a/b", tmp_path / "file")
    assert bucket.size("a/b") == size
    bucket.fetch("a/b", tmp_path / "copy", hashlib.sha256(content).hexdigest())
    assert (tmp_path / "copy").read_bytes() == content == server.read(f"{tmp_path.name}/a/b")


def test_listing_and_deleting(bucket: Bucket, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    for key in ("updates/a/1/x", "updates/a/10/x", "updates/ab/1/x", "versions/x"):
        bucket.put(key, tmp_path / "file")
    assert sorted(bucket.keys("updates/a/")) == ["updates/a/1/x", "updates/a/10/x"]
    bucket.delete(bucket.keys("updates/a/1/"))
    assert bucket.keys("updates/a/") == ["updates/a/10/x"]
    bucket.delete(["updates/a/1/x", "none"])
    assert bucket.keys("nothing/") == []


def test_damaged_bytes_are_refused(bucket: Bucket, tmp_path: Path, server: S3Server) -> None:
    (tmp_path / "file").write_bytes(b"content")
    bucket.put("a", tmp_path / "file")
    server.overwrite(f"{tmp_path.name}/a", b"contenT")
    with pytest.raises(StoreError, match=r"s3://weights/.*/a is damaged: its sha256 is"):
        bucket.fetch("a", tmp_path / "copy", hashlib.sha256(b"content").hexdigest())


def test_what_is_not_there(bucket: Bucket, tmp_path: Path, server: S3Server) -> None:
    with pytest.raises(StoreError, match=r"cannot get none in s3://weights/.*: not there"):
        bucket.fetch("none", tmp_path / "copy", "0" * 64)
    gone = Bucket(parse_url(server.url("x").replace(BUCKET, "no-such-bucket")))
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(StoreError, match="cannot put a in s3://no-such-bucket/x: ") as caught:
        gone.put("a", tmp_path / "file")
    assert "\n" not in str(caught.value)


def test_a_server_that_does_not_answer(bucket: Bucket, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    away = Bucket(BucketUrl("weights", "", "http://127.0.0.1:1", "us-east-1"))
    with pytest.raises(StoreError, match="cannot put a in s3://weights/: ") as caught:
        away.put("a", tmp_path / "file")
    assert CREDENTIALS["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)


def test_a_probe_does_not_wait_for_a_server_that_hangs(bucket: Bucket) -> None:
    """It takes connections and says nothing: `/metrics` is asked by a Prometheus that waits for 14 s."""
    bucket.probe("probe")
    assert bucket.size("probe") == 0
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hanging = Bucket(BucketUrl("weights", "", f"http://127.0.0.1:{silent.getsockname()[1]}", "us-east-1"))
        began = time.monotonic()
        with pytest.raises(StoreError, match="cannot put probe in s3://weights/: "):
            hanging.probe("probe")
    assert time.monotonic() - began < 2 * PROBE_SEC


def test_without_the_package_only_buckets_are_missing(tiny_tflite: Path, tmp_path: Path) -> None:
    """As installed with the extra `serve` alone."""
    code = (
        "import sys\n"
        "sys.modules['obstore'] = sys.modules['psycopg'] = None\n"
        "from fedfer.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", code, "serve", str(tiny_tflite), "--data-dir", str(tmp_path / "data")]
    for option, words in {
        "--weights-url=s3://b/p": "pip install 'fedfer[s3]'",
        "--database-url=postgresql+psycopg://u@h/d": "database-url cannot be used",
    }.items():
        done = subprocess.run([*command, option, "--port", "0"], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert words in done.stderr
    process = subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with process:
        assert process.stdout is not None
        assert b"serving" in process.stdout.readline()
        process.kill()


def test_urls() -> None:
    assert parse_url("s3://b") == BucketUrl("b", "", None, "us-east-1")
    full = parse_url("s3://b/x/y/?endpoint=https://s3.example.org:9000&region=eu-1")
    assert full == BucketUrl("b", "x/y", "https://s3.example.org:9000", "eu-1")
    assert not full.is_plain_http
    assert parse_url("s3://b?endpoint=http://127.0.0.1:1").is_plain_http


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("gs://b", "weights-url is 'gs'; expected s3://BUCKET"),
        ("weights", "weights-url is 'weights'; expected s3://BUCKET"),
        ("s3:///x", "expected s3://BUCKET"),
        ("s3://id:key@b", "weights-url holds credentials"),
        ("s3://b?secret=x", "weights-url has secret in its query"),
        ("s3://b?region=", "an empty value in its query"),
        ("s3://b?endpoint=ftp://x", "endpoint ftp://x; expected http"),
    ],
)
def test_urls_that_are_refused(url: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_url(url)
