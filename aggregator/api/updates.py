"""The call by which a device hands in its update."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import anyio
from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool

from fedfer.aggregator import replies, uploads
from fedfer.aggregator.api.dependencies import (
    REFUSALS,
    AnyDevice,
    AnyPrecedence,
    AnyRun,
    AnyService,
    AnyUploads,
    RoundNumber,
    patience_of,
)
from fedfer.aggregator.device_store import Device
from fedfer.aggregator.gates import Rejection
from fedfer.aggregator.metrics import Metrics
from fedfer.aggregator.refusals import status_of
from fedfer.aggregator.resumable import CUT_OFF, ResumableUploads
from fedfer.aggregator.rounds import Update, check_num_examples
from fedfer.aggregator.runs import Run
from fedfer.aggregator.work import Report, Upload
from fedfer.model.errors import FedferError, RefusedError

router = APIRouter(responses=REFUSALS)
SENT_AGAIN = (*CUT_OFF, "unknown_upload", "bad_digest")  # codes after which a device sends all of it again
FiniteNumber = Annotated[float, Query(allow_inf_nan=False)]
CHECKPOINT_BODY = {
    "requestBody": {
        "content": {uploads.CONTENT_TYPE: {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.put("/v1/runs/{run}/rounds/{round}/update", openapi_extra=CHECKPOINT_BODY)
async def put_update(
    request: Request,
    service: AnyService,
    resumable: AnyUploads,
    precedence: AnyPrecedence,
    device: AnyDevice,
    run: AnyRun,
    round: RoundNumber,
    base_weights: replies.Sha256,
    num_examples: int,
    loss: FiniteNumber,
    accuracy: Annotated[float, Query(ge=0, le=1)],
    train_sec: Annotated[float | None, Query(ge=0, allow_inf_nan=False)] = None,
    upload: replies.Sha256 | None = None,
) -> replies.ReceiptReply:
    """Takes a device's checkpoint, the body or what came as `upload`; the receipt means that it is durable
    and counted."""
    report = Report(base_weights, num_examples, loss, accuracy, train_sec)
    async with _noted_if_refused(run, device):
        return await _taken(
            request, patience_of(service, precedence), resumable, device, run, round, report, upload
        )


@asynccontextmanager
async def _noted_if_refused(run: Run, device: Device) -> AsyncIterator[None]:
    """Keeps why an update was turned away; not what the network or too many others did to it: then it is sent
    again."""
    try:
        yield
    except FedferError as error:
        is_sent_again = isinstance(error, RefusedError) and error.code in SENT_AGAIN
        if status_of(error) < 500 and status_of(error) != 429 and not is_sent_again:
            await run_in_threadpool(run.note_refusal, device, Rejection(error.code, str(error)))
        raise


async def _taken(
    request: Request,
    patience: uploads.Patience,
    resumable: ResumableUploads,
    device: Device,
    run: Run,
    round: int,
    report: Report,
    upload: str | None,
) -> replies.ReceiptReply:
    check_num_examples(report.num_examples)
    await run_in_threadpool(run.check_upload, device, round, report.base_weights)
    if upload is not None:
        named = Upload(run.blobs.temporary_path(), upload, 0)
        earlier = await run_in_threadpool(run.repeated, device, round, named)
        if earlier is not None:
            return _receipt(run, round, earlier)
    metrics: Metrics = request.app.state.metrics
    async with contextlib.AsyncExitStack() as stack:
        with metrics.stage("receive"):
            body = _body(request, patience, resumable, device, run, upload)
            received = await stack.enter_async_context(body)
        accepted = await anyio.to_thread.run_sync(
            _check_and_accept, run, device, round, received, report, metrics, limiter=request.app.state.checks
        )
    return _receipt(run, round, accepted)


@asynccontextmanager
async def _body(
    request: Request,
    patience: uploads.Patience,
    resumable: ResumableUploads,
    device: Device,
    run: Run,
    upload: str | None,
) -> AsyncIterator[Upload]:
    """The checkpoint: what came before as an upload, or the request's body, kept if it is cut off and says
    its sha256. Raises RefusedError, StoreError."""
    if upload is not None:
        uploads.check_no_body(request.headers)
        async with resumable.handed_in(device.id, upload) as received:
            yield received
        return
    max_bytes = run.max_upload_bytes
    wanted = uploads.wanted_digest(request.headers)
    if wanted is not None and not resumable.is_busy(device.id, wanted.hex()):
        async with resumable.whole(request, device.id, wanted, max_bytes, patience) as received:
            yield received
        return
    with resumable.counted(device.id):
        path = run.blobs.temporary_path()
        async with uploads.received(request, path, max_bytes, patience) as received:
            yield received


def _receipt(run: Run, number: int, accepted: Update) -> replies.ReceiptReply:
    return replies.ReceiptReply(
        update=accepted.sha256,
        run=run.name,
        round=number,
        num_examples=accepted.num_examples,
        received_bytes=accepted.received_bytes,
    )


def _check_and_accept(
    run: Run, device: Device, number: int, upload: Upload, report: Report, metrics: Metrics
) -> Update:
    earlier = run.repeated(device, number, upload)
    if earlier is not None:
        return earlier
    with metrics.stage("check"):
        run.check_content(upload)
    with metrics.stage("store"):
        return run.accept(device, number, upload, report)
