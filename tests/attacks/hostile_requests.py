"""Requests that do not fit the protocol, byte for byte, each with the refusal that it must get."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Target:
    """What an attacker with a valid account knows: its token, the open round and the one before it."""

    token: str
    round_number: int
    base_weights: str
    earlier_base: str
    model: str
    body: bytes
    max_bytes: int


@dataclass(frozen=True)
class HostileRequest:
    """`chunks` are sent one after the other. `may_be_cut`: the server may close the connection at the first
    chunk that it refuses, before its words are read."""

    name: str
    chunks: tuple[bytes, ...]
    status: int
    code: str
    may_be_cut: bool = False


def hostile_requests(target: Target) -> Iterator[HostileRequest]:
    yield from _queries(target)
    yield from _tokens(target)
    yield from _rounds(target)
    yield from _upload_headers(target)
    yield from _lengths(target)
    yield from _paths(target)
    yield from _pieces(target)
    yield from _operators(target)
    yield from _small_bodies(target)


def upload(
    target: Target, *, round_number: int | str | None = None, headers: str | None = None, **query: object
) -> bytes:
    """A whole upload; `query` changes parameters (None leaves one out), `headers` replaces all but Host."""
    asked = {"base_weights": target.base_weights, "num_examples": 5, "loss": 1.5, "accuracy": 0.5, **query}
    text = "&".join(f"{name}={value}" for name, value in asked.items() if value is not None)
    number = target.round_number if round_number is None else round_number
    given = standard_headers(target) if headers is None else headers
    head = f"PUT /v1/runs/default/rounds/{number}/update?{text} HTTP/1.1\r\nHost: x\r\n{given}\r\n"
    return head.encode() + target.body


def standard_headers(target: Target, *, token: str | None = None, length: int | None = None) -> str:
    return (
        f"Authorization: Bearer {target.token if token is None else token}\r\n"
        "Content-Type: application/octet-stream\r\n"
        f"Content-Length: {len(target.body) if length is None else length}\r\n"
    )


def _queries(target: Target) -> Iterator[HostileRequest]:
    for value in (0, -1, 1_000_001, 10**18, 10**40, "five", "1.5", "NaN", "", "0x10", None):
        yield HostileRequest(
            f"num_examples {value}", (upload(target, num_examples=value),), 400, "bad_num_examples"
        )
    for name, values in {
        "loss": ("nan", "inf", "-inf", "1e999", "low", None),
        "accuracy": ("nan", "-0.1", "1.1", "inf", None),
        "train_sec": ("-1", "nan", "inf"),
        "base_weights": ("", "xyz", "A" * 64, "0" * 63, "../" * 9, None),
    }.items():
        for value in values:
            yield HostileRequest(f"{name} {value}", (upload(target, **{name: value}),), 400, "bad_request")


def _tokens(target: Target) -> Iterator[HostileRequest]:
    for token in ("", "x", target.token[:-1], target.token + "x", target.token.swapcase(), "\xe9", "'; --"):
        headers = standard_headers(target, token=token)
        yield HostileRequest(f"token {token!r}", (upload(target, headers=headers),), 401, "bad_token")
    basic = standard_headers(target).replace("Bearer", "Basic")
    yield HostileRequest("Basic instead of Bearer", (upload(target, headers=basic),), 401, "bad_token")
    bare = f"Content-Type: application/octet-stream\r\nContent-Length: {len(target.body)}\r\n"
    yield HostileRequest("no token", (upload(target, headers=bare),), 401, "bad_token")
    yield HostileRequest("work without token", (post("/v1/work"),), 401, "bad_token")


def _rounds(target: Target) -> Iterator[HostileRequest]:
    over = upload(target, round_number=target.round_number - 1, base_weights=target.earlier_base)
    yield HostileRequest("another body for an earlier round", (over,), 409, "already_reported")
    yield HostileRequest("round 0", (upload(target, round_number=0),), 404, "unknown_round")
    for number in (target.round_number + 1, 2**31 - 1):
        yield HostileRequest(f"round {number}", (upload(target, round_number=number),), 404, "unknown_round")
    for text in ("-1", str(2**31), "9" * 400, "one", "1.5", "%00", "1;2"):
        yield HostileRequest(f"round {text[:20]}", (upload(target, round_number=text),), 400, "bad_request")
    for base in (target.earlier_base, target.model, "0" * 64):
        yield HostileRequest(f"base {base[:8]}", (upload(target, base_weights=base),), 409, "wrong_base")


def _upload_headers(target: Target) -> Iterator[HostileRequest]:
    standard = standard_headers(target)
    for content_type in ("text/plain", "application/json", "multipart/form-data; boundary=x", ""):
        headers = standard.replace("application/octet-stream", content_type)
        yield HostileRequest(
            f"type {content_type!r}", (upload(target, headers=headers),), 415, "wrong_content_type"
        )
    for encoding in ("gzip", "deflate", "br", "identity, gzip"):
        headers = f"{standard}Content-Encoding: {encoding}\r\n"
        yield HostileRequest(
            f"encoding {encoding}", (upload(target, headers=headers),), 415, "wrong_content_type"
        )
    wrong = base64.b64encode(bytes(32)).decode()
    for digest in (f":{wrong}:", "abc", "::", ":????:", f":{wrong[:-8]}:"):
        headers = f"{standard}Content-Digest: sha-256={digest}\r\n"
        yield HostileRequest(f"digest {digest}", (upload(target, headers=headers),), 400, "bad_digest")


def _lengths(target: Target) -> Iterator[HostileRequest]:
    no_length = standard_headers(target).rpartition("Content-Length")[0]
    chunked = upload(target, headers=no_length + "Transfer-Encoding: chunked\r\n")
    head, _, _ = chunked.partition(b"\r\n\r\n")
    size = f"{len(target.body):x}\r\n".encode()
    chunks = (head + b"\r\n\r\n", size + target.body + b"\r\n", b"0\r\n\r\n")
    yield HostileRequest("chunked", chunks, 411, "length_required")
    head, _, _ = upload(target, headers=no_length).partition(b"\r\n\r\n")
    yield HostileRequest("no length", (head + b"\r\n\r\n",), 411, "length_required")
    for length in (target.max_bytes + 1, 2**40, 10**18):
        headers = standard_headers(target, length=length) + "Expect: 100-continue\r\n"
        head, _, _ = upload(target, headers=headers).partition(b"\r\n\r\n")
        yield HostileRequest(f"announces {length} bytes", (head + b"\r\n\r\n",), 413, "too_large")
    for text in ("-1", "+5", "5,6", "0x10", "1e3", "9" * 30):
        headers = no_length + f"Content-Length: {text}\r\n"
        yield HostileRequest(f"length {text}", (upload(target, headers=headers),), 400, "bad_request", True)
    both = standard_headers(target) + "Transfer-Encoding: chunked\r\n"
    yield HostileRequest("length and chunks", (upload(target, headers=both),), 400, "bad_request", True)
    twice = standard_headers(target) + "Content-Length: 5\r\n"
    yield HostileRequest("two lengths", (upload(target, headers=twice),), 400, "bad_request", True)
    short = upload(target, headers=standard_headers(target, length=len(target.body) - 1))
    yield HostileRequest("body longer than announced", (short[:-1],), 400, "truncated")
    endless = tuple(b"X-%d: " % i + b"a" * 1000 + b"\r\n" for i in range(200))
    yield HostileRequest(
        "headers without end", (b"GET /healthz HTTP/1.1\r\n", *endless), 431, "head_too_large", True
    )
    yield HostileRequest("no HTTP", (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc" * 40,), 400, "bad_request", True)


def _paths(target: Target) -> Iterator[HostileRequest]:
    for kind in ("models", "weights"):
        for name in ("%2e%2e%2f%2e%2e%2ffedfer.db", "..%2flock"):
            yield HostileRequest(f"{kind}/{name}", (get(f"/v1/{kind}/{name}"),), 404, "not_found")
        for name in ("%00", "..", "A" * 64, "0" * 65, "0" * 64 + "%0a", "%F0%9F%98%80", "*"):
            yield HostileRequest(f"{kind}/{name[:24]}", (get(f"/v1/{kind}/{name}"),), 400, "bad_request")
    yield HostileRequest(
        "weights as model", (get(f"/v1/models/{target.base_weights}"),), 404, "unknown_model"
    )
    yield HostileRequest("model as weights", (get(f"/v1/weights/{target.model}"),), 404, "unknown_weights")
    far = f"/v1/models/{target.model}"
    yield HostileRequest("range far out", (get(far, "Range: bytes=999999999-\r\n"),), 416, "bad_range")
    yield HostileRequest("empty range", (get(far, "Range: bytes=-0\r\n"),), 416, "bad_range")
    for path in (
        "/",
        "/v1",
        "/v1/updates",
        "/v1/runs/default/rounds/",
        "/v1/runs/default/rounds/1/update/x",
        "/static/../etc/passwd",
    ):
        yield HostileRequest(f"GET {path}", (get(path),), 404, "not_found")
    yield HostileRequest(
        "round that is not there", (get("/v1/runs/default/rounds/77"),), 404, "unknown_round"
    )
    yield HostileRequest("round of letters", (get("/v1/runs/default/rounds/x"),), 400, "bad_request")
    yield HostileRequest("GET devices", (get("/v1/devices"),), 405, "method_not_allowed")
    yield HostileRequest(
        "DELETE round", (get("/v1/runs/default/rounds/1", method="DELETE"),), 405, "method_not_allowed"
    )
    yield HostileRequest(
        "POST update", (post("/v1/runs/default/rounds/1/update"),), 405, "method_not_allowed"
    )
    yield HostileRequest("PUT devices", (get("/v1/devices", method="PUT"),), 405, "method_not_allowed")


def piece(target: Target, name: str = "0" * 64, headers: str = "Upload-Offset: 0\r\n") -> bytes:
    """A piece of an upload; `headers` besides those that every one has."""
    return (
        f"PATCH /v1/uploads/{name} HTTP/1.1\r\nHost: x\r\n{standard_headers(target)}{headers}\r\n".encode()
        + target.body
    )


def _pieces(target: Target) -> Iterator[HostileRequest]:
    for offset in ("-1", "1", "0x0", "1e9", "9" * 30, "NaN", "0,0", str(2**63)):
        request = piece(target, headers=f"Upload-Offset: {offset}\r\n")
        yield HostileRequest(f"offset {offset}", (request,), 409, "wrong_offset")
    yield HostileRequest("no offset", (piece(target, headers=""),), 400, "bad_request")
    for name in ("..%2f..%2fetc", "%00", "A" * 64, "0" * 63, "0" * 65, "0" * 64 + "%0a", "0" * 62 + "%2e%2e"):
        status, code = (404, "not_found") if "%2f" in name else (400, "bad_request")
        yield HostileRequest(f"piece of {name[:24]}", (piece(target, name),), status, code)
    packed = piece(target, headers="Upload-Offset: 0\r\nContent-Encoding: gzip\r\n")
    yield HostileRequest("packed piece", (packed,), 415, "wrong_content_type")
    text = piece(target).replace(b"application/octet-stream", b"text/plain")
    yield HostileRequest("piece of text", (text,), 415, "wrong_content_type")
    for token in ("", "x", target.token[:-1]):
        stolen = piece(target).replace(f"Bearer {target.token}".encode(), f"Bearer {token}".encode())
        yield HostileRequest(f"piece with token {token!r:.9}", (stolen,), 401, "bad_token")
    huge = (
        standard_headers(target, length=target.max_bytes + 1) + "Upload-Offset: 0\r\nExpect: 100-continue\r\n"
    )
    head = f"PATCH /v1/uploads/{'0' * 64} HTTP/1.1\r\nHost: x\r\n{huge}\r\n".encode()
    yield HostileRequest("piece too large", (head,), 413, "too_large")
    nothing = standard_headers(target, length=0)
    absent = replace(target, body=b"")
    yield HostileRequest(
        "hands in nothing", (upload(absent, headers=nothing, upload="0" * 64),), 404, "unknown_upload"
    )
    yield HostileRequest("hands in with a body", (upload(target, upload="0" * 64),), 400, "bad_request")
    for name in ("../../etc/passwd", "", "0" * 63, "A" * 64, "%00" * 64):
        request = upload(absent, headers=nothing, upload=name)
        yield HostileRequest(f"hands in {name[:20]!r}", (request,), 400, "bad_request")


def _operators(target: Target) -> Iterator[HostileRequest]:
    """This server has no admin key: whoever asks, and with whatever, is not the admin."""
    for token in ("", "x", target.token, "admin", "null", "\xe9"):
        headers = f"Authorization: Bearer {token}\r\n"
        for path in ("pause", "resume", "stop"):
            request = post(f"/v1/runs/default/{path}", headers=headers)
            yield HostileRequest(f"{path} with token {token!r:.9}", (request,), 403, "admin_disabled")
        request = get("/v1/devices/x", headers, method="DELETE")
        yield HostileRequest(f"revoke with token {token!r:.9}", (request,), 403, "admin_disabled")


def _small_bodies(target: Target) -> Iterator[HostileRequest]:
    for name, body in {
        "nothing": b"",
        "no JSON": b"name=phone",
        "a list": b"[]",
        "null": b"null",
        "deep": b"[" * 60_000,
        "deep objects": b'{"name":' * 7_000,
        "not UTF-8": b'{"name": "\xff"}',
        "lone surrogate": b'{"name": "\\ud800"}',
        "no name": b"{}",
        "empty name": b'{"name": ""}',
        "long name": b'{"name": "' + b"a" * 65 + b'"}',
        "number as name": b'{"name": 5}',
        "newline in name": b'{"name": "a\\n"}',
        "script in name": b'{"name": "<script>"}',
        "log forging": b'{"name": "a\\r\\n2026 INFO done"}',
        "huge number": b'{"name": "a", "contract": ' + b"9" * 5000 + b"}",
        "token of spaces": b'{"name": "a", "token": "a b"}',
        "token that is long": b'{"name": "a", "token": "' + b"a" * 257 + b'"}',
        "token that is a list": b'{"name": "a", "token": ["a"]}',
        "contract of letters": b'{"name": "a", "contract": "zz"}',
    }.items():
        yield HostileRequest(f"enrol: {name}", (post("/v1/devices", body),), 400, "bad_request")
    other = b'{"name": "a", "contract": "' + b"0" * 64 + b'"}'
    yield HostileRequest("enrol: other model", (post("/v1/devices", other),), 409, "wrong_model")
    large = b'{"name": "' + b"a" * 70_000 + b'"}'
    yield HostileRequest("enrol: large", (post("/v1/devices", large),), 413, "too_large")
    work = post("/v1/work", b"x" * 70_000, f"Authorization: Bearer {target.token}\r\n")
    yield HostileRequest("work: large", (work,), 413, "too_large")
    text = post("/v1/devices", b'{"name": "a"}').replace(b"application/json", b"text/plain")
    yield HostileRequest("enrol: as text", (text,), 415, "wrong_content_type")
    for kind in ("", "text/json", "application/json; charset=utf-16", "application/jsonp", "a" * 500):
        other = text.replace(b"text/plain", kind.encode())
        yield HostileRequest(f"enrol: as {kind[:40]!r}", (other,), 415, "wrong_content_type")
    packed = post("/v1/devices", b'{"name": "a"}', "Content-Encoding: gzip\r\n")
    yield HostileRequest("enrol: packed", (packed,), 415, "wrong_content_type")


def get(path: str, headers: str = "", method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode()


def post(path: str, body: bytes = b"", headers: str = "") -> bytes:
    length = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"POST {path} HTTP/1.1\r\nHost: x\r\n{headers}{length}\r\n".encode() + body
