"""What the calls share: the service, the device that asks, the operator who asks, words in paths."""

from typing import Annotated, Any

from fastapi import Depends, Path, Request
from starlette.concurrency import run_in_threadpool

from fedfer.aggregator import access, replies
from fedfer.aggregator.device_store import Device
from fedfer.aggregator.keys import bearer
from fedfer.aggregator.precedence import Precedence
from fedfer.aggregator.resumable import ResumableUploads
from fedfer.aggregator.runs import Run
from fedfer.aggregator.service import Service
from fedfer.aggregator.uploads import Patience
from fedfer.model.errors import RefusedError

MAX_ROUND = 2**31 - 1
RoundNumber = Annotated[int, Path(ge=0, le=MAX_ROUND)]
RunName = Annotated[str, Path(max_length=100)]
REFUSALS: dict[int | str, dict[str, Any]] = {"4XX": {"model": replies.ErrorReply}}


# What does not block is async: FastAPI calls anything else in a worker thread, which costs more than it does.
async def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


AnyService = Annotated[Service, Depends(service_of)]


async def run_of(run: RunName, service: AnyService) -> Run:
    """The run that the path names. Raises RefusedError (404)."""
    return service.run(run)


AnyRun = Annotated[Run, Depends(run_of)]


async def device_of(request: Request, service: AnyService) -> Device:
    """Who sends the request. Raises RefusedError (401)."""
    device = await _authenticated(service, request.headers.get("authorization", ""))
    request.state.device = device.id  # for the log, should it be refused
    return device


async def _authenticated(service: Service, authorization: str) -> Device:
    """Raises RefusedError (401)."""
    token = bearer(authorization)
    device = service.recognise(token)
    return device if device is not None else await run_in_threadpool(service.authenticate, token)


AnyDevice = Annotated[Device, Depends(device_of)]


async def uploads_of(request: Request) -> ResumableUploads:
    uploads: ResumableUploads = request.app.state.uploads
    return uploads


AnyUploads = Annotated[ResumableUploads, Depends(uploads_of)]


async def precedence_of(request: Request) -> Precedence:
    precedence: Precedence = request.app.state.precedence
    return precedence


AnyPrecedence = Annotated[Precedence, Depends(precedence_of)]


def patience_of(service: Service, precedence: Precedence) -> Patience:
    """How slow an upload to this server may be, and whom it gives way to."""
    config = service.config
    return Patience(config.body_idle_sec, config.limits.min_upload_bytes_per_sec, precedence.give_way)


async def reader(request: Request, service: AnyService) -> None:
    """Lets pass who may read: anybody where anybody may enrol, else devices and the operator. Raises
    RefusedError (401, 403)."""
    keyring, authorization = access.keyring_of(request), request.headers.get("authorization", "")
    if keyring.enrol is None or keyring.is_admin(authorization):
        return
    try:
        await _authenticated(service, authorization)
    except RefusedError as error:
        if error.code != "bad_token":
            raise
        words = "expected `Authorization: Bearer ...` with the token of a device, or with the admin key"
        raise RefusedError(words, code="bad_token", status=401) from None


AsAdmin = Depends(access.admin)
AsReader = Depends(reader)
