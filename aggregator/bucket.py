"""An S3-compatible bucket as a place for files that never change, through obstore.

`s3://BUCKET/PREFIX?endpoint=URL&region=NAME`: without `endpoint` it is Amazon's. Credentials come from where
AWS clients look for them (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, ...), never from the URL. A file is whole
in the bucket or not there; the bucket's server checks the sha256 of every part that is sent.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256 as sha256_of
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import S3Store

from fedfer.model.errors import StoreError, UsageError

PIECE_BYTES = 5 * 1024 * 1024  # S3's smallest part of an upload in parts
PIECES_AT_ONCE = 2  # of one file: with PIECE_BYTES what an upload holds in memory
REQUEST_SEC, CONNECT_SEC, RETRY_SEC = 60, 5, 20
MAX_RETRIES = 3
PROBE_SEC = 5  # /readyz and /metrics wait for it: less than their callers' patience
QUERY_KEYS = frozenset({"endpoint", "region"})


@dataclass(frozen=True)
class BucketUrl:
    """What a `--weights-url` of a bucket says."""

    bucket: str
    prefix: str
    endpoint: str | None
    region: str

    @property
    def is_plain_http(self) -> bool:
        return self.endpoint is not None and self.endpoint.startswith("http://")


def parse_url(url: str) -> BucketUrl:
    """Raises UsageError for what is no bucket's URL, and for keys in it."""
    parts = urlsplit(url)
    query = parse_qs(parts.query, keep_blank_values=True)
    expected = "s3://BUCKET/PREFIX?endpoint=URL&region=NAME"
    if parts.scheme != "s3" or not parts.netloc:
        raise UsageError(f"weights-url is {parts.scheme or url!r}; expected {expected}")
    if "@" in parts.netloc:
        raise UsageError(f"weights-url holds credentials; expected {expected} and AWS_ACCESS_KEY_ID etc.")
    unknown = sorted(set(query) - QUERY_KEYS)
    if unknown or any(len(values) != 1 or not values[0] for values in query.values()):
        raise UsageError(
            f"weights-url has {', '.join(unknown) or 'an empty value'} in its query; expected {expected}"
        )
    endpoint = query.get("endpoint", [None])[0]
    if endpoint is not None and urlsplit(endpoint).scheme not in ("http", "https"):
        raise UsageError(f"weights-url has the endpoint {endpoint}; expected http://... or https://...")
    return BucketUrl(parts.netloc, parts.path.strip("/"), endpoint, query.get("region", ["us-east-1"])[0])


class Bucket:
    """Files by key below the URL's prefix. Methods block, may be called from any thread, raise StoreError."""

    def __init__(self, url: BucketUrl) -> None:
        self.name = f"s3://{url.bucket}/{url.prefix}"
        self._store = _store(url, REQUEST_SEC, MAX_RETRIES)
        self._impatient = _store(url, PROBE_SEC, 0)

    def probe(self, key: str) -> None:
        """Whether it can be written, by an empty file. Raises StoreError, within PROBE_SEC or about."""
        with self._errors(f"put {key}"):
            obstore.put(self._impatient, key, b"")

    def put(self, key: str, path: Path) -> None:
        """Durable in the bucket on return."""
        with self._errors(f"put {key}"), path.open("rb") as file:
            obstore.put(self._store, key, file, chunk_size=PIECE_BYTES, max_concurrency=PIECES_AT_ONCE)

    def fetch(self, key: str, path: Path, sha256: str) -> None:
        """Writes the file to `path`, a piece at a time. Raises StoreError if it has not this sha256."""
        digest = sha256_of()
        with self._errors(f"get {key}"), path.open("xb", 0) as file:
            for piece in obstore.get(self._store, key).stream(min_chunk_size=PIECE_BYTES):
                digest.update(piece)
                file.write(piece)
        if digest.hexdigest() != sha256:
            raise StoreError(f"{self.name}/{key} is damaged: its sha256 is {digest.hexdigest()}")

    def size(self, key: str) -> int | None:
        """Bytes of the file, None if it is not there."""
        try:
            with self._errors(f"look up {key}"):
                return obstore.head(self._store, key)["size"]
        except _MissingError:
            return None

    def keys(self, prefix: str) -> list[str]:
        """All keys below a prefix that ends at a slash."""
        with self._errors(f"list {prefix}"):
            pages = obstore.list(self._store, prefix=prefix)
            return [entry["path"] for page in pages for entry in page]

    def delete(self, keys: list[str]) -> None:
        """Deletes what is there of them."""
        if keys:
            with self._errors(f"delete {len(keys)} files"):
                obstore.delete(self._store, keys)

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (NotFoundError, FileNotFoundError) as error:
            raise _MissingError(f"cannot {doing} in {self.name}: not there") from error
        except (BaseError, OSError) as error:
            raise StoreError(f"cannot {doing} in {self.name}: {_first_line(error)}") from error


def _store(url: BucketUrl, request_sec: float, max_retries: int) -> S3Store:
    return S3Store(
        url.bucket,
        prefix=url.prefix or None,
        endpoint=url.endpoint,
        region=url.region,
        checksum_algorithm="SHA256",
        client_options={
            "allow_http": url.is_plain_http,
            "timeout": timedelta(seconds=request_sec),
            "connect_timeout": timedelta(seconds=CONNECT_SEC),
        },
        retry_config={"max_retries": max_retries, "retry_timeout": timedelta(seconds=RETRY_SEC)},
    )


class _MissingError(StoreError):
    """The bucket answers, and has no such file (or there is no such bucket)."""


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
