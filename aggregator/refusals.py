"""Every failure as `{"error": {"code", "reason"}}` with its HTTP status, whoever raised it."""

import logging
import re
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from fedfer.aggregator.logs import about
from fedfer.aggregator.security_headers import SECURITY_HEADERS
from fedfer.model.errors import CheckpointError, FedferError, RefusedError, StoreError

logger = logging.getLogger("fedfer.aggregator")
CHECKPOINT_STATUS = {"truncated": 400, "wrong_model": 409, "too_large": 413}
HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}
RETRY_AFTER_SEC = 5
MAX_REASON_CHARS = 600
LONG_WORD = re.compile(r"[\w-]{32,}")
DIGEST = re.compile(r"[0-9a-f]{32,64}")


def install(app: FastAPI) -> None:
    """Makes the application answer every failure in this form."""
    app.add_exception_handler(FedferError, _on_fedfer_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_bug)


def refusal(status: int, code: str, reason: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """The one form of a failure."""
    body = {"error": {"code": code, "reason": reason[:MAX_REASON_CHARS]}}
    return JSONResponse(body, status_code=status, headers={**SECURITY_HEADERS, **(headers or {})})


def status_of(error: FedferError) -> int:
    """The HTTP status of an error that a request caused."""
    match error:
        case RefusedError():
            return error.status
        case CheckpointError():
            return CHECKPOINT_STATUS.get(error.code, 422)
        case StoreError():
            return 503
    return 500


async def _on_fedfer_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, FedferError)
    status = status_of(error)
    log = logger.error if status >= 500 else logger.info
    words, reason = "refused %s %s: %d %s: %s", _without_tokens(str(error))
    known = about(**_subject(request), code=error.code)
    log(words, request.method, _path(request), status, error.code, reason, extra=known)
    headers = error.headers if isinstance(error, RefusedError) else {}
    if status == 503:
        headers["Retry-After"] = str(RETRY_AFTER_SEC)
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return refusal(status, error.code, str(error), headers)


async def _on_validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problems = error.errors()
    places = {problem["loc"][-1] for problem in problems if problem["loc"]}
    code = "bad_num_examples" if places == {"num_examples"} else "bad_request"
    first = problems[0]
    where = ".".join(str(part) for part in first["loc"])
    reason = f"{where}: {first['msg']}; see docs/protocol.md"
    said = _without_tokens(reason[:200])
    logger.info("refused %s %s: 400 %s: %s", request.method, _path(request), code, said)
    return refusal(400, code, reason)


async def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = HTTP_CODES.get(error.status_code, "bad_request")
    headers = dict(error.headers) if error.headers else None
    return refusal(error.status_code, code, f"{request.method} {_path(request)}: {error.detail}", headers)


async def _on_bug(request: Request, error: Exception) -> JSONResponse:
    logger.error("failed %s %s", request.method, _path(request), exc_info=error)
    return refusal(500, "internal_error", "the aggregator failed; its log has the cause")


def _subject(request: Request) -> dict[str, Any]:
    """What the request was about, as far as its path and its token say."""
    run, number = (str(request.path_params.get(name, "")) for name in ("run", "round"))
    return {
        "run": ascii(run)[1:-1][:40] or None,
        "round": int(number) if re.fullmatch("[0-9]{1,9}", number) else None,
        "device": getattr(request.state, "device", None),
    }


def _path(request: Request) -> str:
    """The path as sent, made fit for a log line."""
    return ascii(_without_tokens(request.url.path)[:200])[1:-1]


def _without_tokens(text: str) -> str:
    """Somebody else's words without what may be a token: long words that are no digests."""
    return LONG_WORD.sub(lambda word: word[0] if DIGEST.fullmatch(word[0]) else "***", text)
