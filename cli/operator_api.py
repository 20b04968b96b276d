"""The operator's side of an aggregator's HTTP API, for `fedfer runs`, `rounds` and `versions`.

One attempt a call: who waits at a terminal decides about the next. Whatever the server says is bounded, and
free of control characters when it is shown.
"""

import argparse
import contextlib
import hashlib
import json
import os
import secrets
import ssl
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedfer.cli.key_files import ADMIN_VARIABLE, read_key
from fedfer.model.errors import RefusedError, ServerUnreachableError, StoreError, UsageError

if TYPE_CHECKING:
    import httpx

SERVER_VARIABLE = "FEDFER_SERVER"
DEFAULT_SERVER = "http://127.0.0.1:8750"
MAX_REPLY_BYTES = 64 * 2**20
SEC = 60.0
ALPHANUMERIC_NEEDED = "letters, digits, . _ -"


def add_arguments(parser: argparse.ArgumentParser, environ: Mapping[str, str] = os.environ) -> None:
    """What every command that speaks to a server as its operator takes."""
    add = parser.add_argument
    server = environ.get(SERVER_VARIABLE, DEFAULT_SERVER)
    add("--server", metavar="URL", default=server, help=f"the aggregator; {SERVER_VARIABLE} if not given")
    add(
        "--admin-key-file",
        type=Path,
        metavar="FILE",
        help=f"key for what changes something; {ADMIN_VARIABLE} if not given",
    )
    add("--ca-file", type=Path, metavar="FILE", help="certificates (PEM) to trust, instead of the system's")
    add("--json", action="store_true", help="print JSON for programs")


class Api:
    """Calls to one aggregator. They raise RefusedError, ServerUnreachableError."""

    def __init__(self, http: "httpx.Client", key: str | None) -> None:
        self._http, self._key = http, key

    def get(self, path: str) -> dict[str, Any]:
        return self._json("GET", path)

    def post(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        return self._json("POST", path, body)

    def delete(self, path: str) -> dict[str, Any]:
        return self._json("DELETE", path)

    def download(self, path: str, place: Path, sha256: str) -> int:
        """Writes the file to `place` once it is whole and has this sha256; returns its bytes.

        Raises StoreError if it cannot be written.
        """
        temporary = place.with_name(f".{place.name}.{secrets.token_hex(8)}")
        digest, size = hashlib.sha256(), 0
        try:
            with self._answer("GET", path) as answer, temporary.open("xb") as file:
                for piece in answer.iter_bytes():
                    digest.update(piece)
                    size += file.write(piece)
            if digest.hexdigest() != sha256:
                raise RefusedError(
                    f"{path} came with other bytes than its name says; try again", code="bad_reply"
                )
            temporary.replace(place)
        except OSError as error:
            raise StoreError(f"cannot write {place}: {error.strerror}") from None
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        return size

    def _json(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        with self._answer(method, path, body) as answer:
            data = _bounded(answer, MAX_REPLY_BYTES)
        try:
            found = json.loads(data) if data else {}
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise RefusedError(f"{method} {path}: the answer is not a fedfer aggregator's", code="bad_reply")
        return found

    @contextmanager
    def _answer(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> Iterator["httpx.Response"]:
        import httpx

        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        where = f"{method} {str(self._http.base_url).rstrip('/')}{path}"
        try:
            with self._http.stream(method, path, headers=headers, json=body) as answer:
                if not answer.is_success:
                    raise _refusal(where, answer.status_code, _bounded(answer, 2**16))
                yield answer
        except httpx.HTTPError as error:
            raise ServerUnreachableError(f"{where}: {printable(error) or type(error).__name__}") from None


@contextmanager
def connected(args: argparse.Namespace) -> Iterator[Api]:
    """The API of the server that the arguments name. Raises UsageError."""
    try:
        import httpx
    except ImportError as error:
        raise UsageError(f"this command needs a package ({error}); pip install 'fedfer[devices]'") from None
    from fedfer.android_stub.connection import check_url

    def warn(text: str) -> None:
        print(f"fedfer {args.command}: {text}", file=sys.stderr)

    url = check_url(args.server)
    key = read_key(args.admin_key_file, ADMIN_VARIABLE, os.environ, warn)
    is_loopback = url.host in ("127.0.0.1", "localhost", "::1")
    verify = _trusting(args.ca_file) if args.ca_file else True
    with httpx.Client(base_url=url, timeout=SEC, verify=verify, trust_env=not is_loopback) as http:
        yield Api(http, key)


def quoted(name: str) -> str:
    """A name as part of a path. Raises UsageError for one that no run, version or tag can have."""
    if not name or not all(char.isascii() and (char.isalnum() or char in "._-") for char in name):
        raise UsageError(f"{printable(name)!r} is no name here; expected {ALPHANUMERIC_NEEDED}")
    return name


def only_run(api: Api) -> str:
    """The name of the server's run, if it has one. Raises UsageError if there are several, or none."""
    names = [str(run.get("run")) for run in objects(api.get("/v1/runs"), "runs")]
    if len(names) != 1:
        raise UsageError(f"name a run: the server has {', '.join(map(printable, names)) or 'none'}")
    return quoted(names[0])


def objects(body: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The list of objects in an answer's field. Raises RefusedError if it is none."""
    found = body.get(name)
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise RefusedError(
            f"the answer has no list `{name}`; expected a fedfer aggregator's", code="bad_reply"
        )
    return found


def printable(value: object) -> str:
    """Text for a terminal: `-` for None, control characters as spaces."""
    text = "-" if value is None else str(value)
    return "".join(char if char.isprintable() else " " for char in text)


def measure(value: object, digits: int = 3) -> str:
    """A number with so many decimals, `-` for None."""
    return f"{value:.{digits}f}" if isinstance(value, float | int) else printable(value)


def short(sha256: object) -> str:
    """The first characters of a name, enough for people."""
    return printable(sha256)[:12]


def _bounded(answer: "httpx.Response", max_bytes: int) -> bytes:
    data = bytearray()
    for piece in answer.iter_bytes():
        data += piece
        if len(data) > max_bytes:
            raise RefusedError(f"the answer has more than {max_bytes} bytes", code="bad_reply")
    return bytes(data)


def _refusal(where: str, status: int, body: bytes) -> RefusedError:
    from fedfer.android_stub.connection import read_refusal

    code, reason = read_refusal(body, status)
    return RefusedError(f"{where}: HTTP {status} {code}: {reason}", code=code, status=status)


def _trusting(path: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(path))
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"cannot use the certificates in {path}: {error}") from None
