"""The call by which a device hands in its update."""

from typing import Annotated

import anyio
from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool

from fedfer.aggregator import replies, uploads
from fedfer.aggregator.api.dependencies import REFUSALS, AnyDevice, AnyRun, RoundNumber
from fedfer.aggregator.device_store import Device
from fedfer.aggregator.rounds import Update, check_num_examples
from fedfer.aggregator.runs import Report, Run, Upload

router = APIRouter(responses=REFUSALS)
FiniteNumber = Annotated[float, Query(allow_inf_nan=False)]
CHECKPOINT_BODY = {
    "requestBody": {
        "required": True,
        "content": {uploads.CONTENT_TYPE: {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.put("/v1/runs/{run}/rounds/{round}/update", openapi_extra=CHECKPOINT_BODY)
async def put_update(
    request: Request,
    device: AnyDevice,
    run: AnyRun,
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
    await run_in_threadpool(run.check_upload, device, round, base_weights)
    path = run.blobs.temporary_path()
    idle_sec = request.app.state.service.config.body_idle_sec
    async with uploads.received(request, path, run.max_upload_bytes, idle_sec) as upload:
        accepted = await anyio.to_thread.run_sync(
            _check_and_accept, run, device, round, upload, report, limiter=request.app.state.checks
        )
    return replies.ReceiptReply(
        update=accepted.sha256,
        run=run.name,
        round=round,
        num_examples=accepted.num_examples,
        received_bytes=accepted.received_bytes,
    )


def _check_and_accept(run: Run, device: Device, number: int, upload: Upload, report: Report) -> Update:
    earlier = run.repeated(device, number, upload)
    if earlier is not None:
        return earlier
    run.check_content(upload)
    return run.accept(device, number, upload, report)
