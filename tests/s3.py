"""An S3 server for tests: the one that FEDFER_TEST_S3_URL names, or moto's, as a process on a free port.

Of the one that is named, such as http://127.0.0.1:8333, the bucket `weights` is used and emptied. It has to
take any credentials; SeaweedFS 4.53 does as it comes (`weed server -s3`).
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
import obstore
from obstore.store import S3Store

if TYPE_CHECKING:
    from obstore.store import ClientConfig

CODE = """
import signal
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
signal.pause()
"""
# What moto takes as credentials: anything.
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test-id", "AWS_SECRET_ACCESS_KEY": "test-secret"}
BUCKET, URL_VARIABLE = "weights", "FEDFER_TEST_S3_URL"


@dataclass
class S3Server:
    """A running server."""

    endpoint: str
    process: subprocess.Popen[str] | None = None

    def url(self, prefix: str) -> str:
        return f"s3://{BUCKET}/{prefix}?endpoint={self.endpoint}"

    @property
    def store(self) -> S3Store:
        options: ClientConfig = {"allow_http": True}
        return S3Store(
            BUCKET,
            endpoint=self.endpoint,
            client_options=options,
            access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        )

    def make_bucket(self) -> None:
        assert httpx.put(f"{self.endpoint}/{BUCKET}", trust_env=False).status_code == 200

    def delete_bucket(self) -> None:
        """Gone with all that is in it: what is put or read afterwards fails."""
        keys = [entry["path"] for page in obstore.list(self.store) for entry in page]
        obstore.delete(self.store, keys)
        assert httpx.delete(f"{self.endpoint}/{BUCKET}", trust_env=False).status_code == 204

    def listed(self, prefix: str) -> list[str]:
        """The keys that begin with it, in order."""
        found = (entry["path"] for page in obstore.list(self.store) for entry in page)
        return sorted(key for key in found if key.startswith(prefix))

    def read(self, key: str) -> bytes:
        return bytes(obstore.get(self.store, key).bytes())

    def overwrite(self, key: str, content: bytes) -> None:
        obstore.put(self.store, key, content)


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """A server with one empty bucket."""
    given = os.environ.get(URL_VARIABLE)
    if given:
        server = S3Server(given)
        server.make_bucket()
        try:
            yield server
        finally:
            server.delete_bucket()
        return
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", CODE],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            endpoint = f"http://127.0.0.1:{int(process.stdout.readline())}"
            server = S3Server(endpoint, process)
            server.make_bucket()
            yield server
        finally:
            process.kill()
