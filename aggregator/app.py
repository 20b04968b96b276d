"""The aggregator's HTTP calls, as docs/protocol.md describes them: parse, call the service, answer."""

import contextlib
from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Depends, FastAPI, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from fedfer.aggregator import access, downloads, guards, refusals, replies, uploads
from fedfer.aggregator.config import ServerConfig
from fedfer.aggregator.opening import running_service
from fedfer.aggregator.rounds import Update, check_num_examples
from fedfer.aggregator.service import Report, Service, Upload, unknown_round
from fedfer.aggregator.store import Device
from fedfer.export.checkpoint import max_checkpoint_bytes
from fedfer.export.contract import read_contract
from fedfer.model.errors import StoreError

MAX_ROUND = 2**31 - 1
RoundNumber = Annotated[int, Path(ge=0, le=MAX_ROUND)]
FiniteNumber = Annotated[float, Query(allow_inf_nan=False)]
REFUSALS: dict[int | str, dict[str, Any]] = {"4XX": {"model": replies.ErrorReply}}
router = APIRouter(responses=REFUSALS)


def create_app(config: ServerConfig) -> FastAPI:
    """The application. It opens its data directory when it starts and closes it when it stops.

    Raises ModelFileError if the model cannot be read; starting raises whatever `running_service` does,
    kept in `app.state.startup_error`.
    """
    max_bytes = max_checkpoint_bytes(read_contract(config.model))

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        context = running_service(config)
        try:
            app.state.service = await run_in_threadpool(context.__enter__)
        except Exception as error:
            app.state.startup_error = error
            raise
        app.state.checks = anyio.CapacityLimiter(config.max_concurrent_checks)
        try:
            yield
        finally:
            await run_in_threadpool(context.__exit__, None, None, None)

    app = FastAPI(
        title="fedfer aggregator",
        version="1",
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
    )
    app.state.startup_error = None
    app.state.keyring = config.keyring
    guards.install(app, config.limits, max_bytes)
    app.include_router(router)
    refusals.install(app)
    return app


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


AnyService = Annotated[Service, Depends(service_of)]


async def device_of(request: Request, service: AnyService) -> Device:
    """Who sends the request. Raises RefusedError (401)."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    given = token.strip() if scheme.lower() == "bearer" else ""
    return await run_in_threadpool(service.authenticate, given)


AnyDevice = Annotated[Device, Depends(device_of)]


@router.post("/v1/devices", status_code=201, dependencies=[Depends(access.enrolling)])
def enrol(body: replies.EnrolRequest, service: AnyService) -> replies.EnrolReply:
    """Enrols a device and gives it a token."""
    device, token = service.enrol(body.name, body.contract)
    return replies.EnrolReply(
        device_id=device.id, token=token, model=service.model, contract=service.contract.digest
    )


@router.post("/v1/work")
def work(device: AnyDevice, service: AnyService) -> replies.WorkReply:
    """Joins the device to the open round if it has a free place, or tells it to wait or stop."""
    return replies.work_reply(service.work(device), service)


@router.get("/v1/models/{sha256}", response_class=Response)
async def get_model(sha256: replies.Sha256, request: Request, service: AnyService) -> Response:
    """The served `.tflite`."""
    return await _send_file("model", sha256, request, service)


@router.get("/v1/weights/{sha256}", response_class=Response)
async def get_weights(sha256: replies.Sha256, request: Request, service: AnyService) -> Response:
    """A version: weights that a round started from or ended with."""
    return await _send_file("weights", sha256, request, service)


async def _send_file(kind: str, sha256: str, request: Request, service: Service) -> Response:
    path = await run_in_threadpool(service.open_file, kind, sha256)

    async def count(num_bytes: int) -> None:
        with anyio.CancelScope(shield=True), contextlib.suppress(StoreError):
            await run_in_threadpool(service.count_download, num_bytes)

    return await downloads.file_response(path, sha256, request.headers, count)


CHECKPOINT_BODY = {
    "requestBody": {
        "required": True,
        "content": {uploads.CONTENT_TYPE: {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.put("/v1/rounds/{round}/update", openapi_extra=CHECKPOINT_BODY)
async def put_update(
    request: Request,
    service: AnyService,
    device: AnyDevice,
    round: RoundNumber,
    base_weights: replies.Sha256,
    num_examples: int,
    loss: FiniteNumber,
    accuracy: Annotated[float, Query(ge=0, le=1)],
    train_sec: Annotated[float | None, Query(ge=0, allow_inf_nan=False)] = None,
) -> replies.ReceiptReply:
    """Takes a device's checkpoint; the receipt means that it is durable and counted."""
    check_num_examples(num_examples)
    report = Report(base_weights, num_examples, loss, accuracy, train_sec)
    await run_in_threadpool(service.check_upload, device, round, base_weights)
    path = service.store.blobs.temporary_path()
    max_bytes, idle_sec = max_checkpoint_bytes(service.contract), service.config.body_idle_sec
    async with uploads.received(request, path, max_bytes, idle_sec) as upload:
        accepted = await anyio.to_thread.run_sync(
            _check_and_accept, service, device, round, upload, report, limiter=request.app.state.checks
        )
    return replies.ReceiptReply(
        update=accepted.sha256,
        round=round,
        num_examples=accepted.num_examples,
        received_bytes=accepted.received_bytes,
    )


def _check_and_accept(
    service: Service, device: Device, number: int, upload: Upload, report: Report
) -> Update:
    earlier = service.repeated(device, number, upload)
    if earlier is not None:
        return earlier
    service.check_content(upload)
    return service.accept(device, number, upload, report)


@router.get("/v1/rounds")
def get_rounds(service: AnyService) -> replies.RoundsReply:
    """What happened in all rounds, oldest first."""
    return replies.RoundsReply(rounds=[replies.round_reply(row) for row in service.store.round_rows()])


@router.get("/v1/rounds/{round}")
def get_round(round: RoundNumber, service: AnyService) -> replies.RoundReply:
    """What happened in one round; round 0 is the initial checkpoint."""
    rows = service.store.round_rows(round)
    if not rows:
        raise unknown_round(round, service.round_.number)
    return replies.round_reply(rows[0])


@router.get("/v1/status")
def get_status(service: AnyService) -> replies.StatusReply:
    """Where training stands."""
    return replies.StatusReply(
        model=service.model,
        contract=service.contract.digest,
        phase="finished" if service.is_finished else "running",
        round=service.round_.number,
        num_rounds=service.config.num_rounds,
        weights=service.newest_weights,
        num_devices=service.store.num_devices(),
        holdout_examples=service.holdout_examples,
    )


@router.get("/healthz")
async def get_health() -> replies.HealthReply:
    """Answers while the process does."""
    return replies.HealthReply()
