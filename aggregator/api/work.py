"""The call by which a device learns what to do."""

from fastapi import APIRouter, Response
from starlette.concurrency import run_in_threadpool

from fedfer.aggregator import replies
from fedfer.aggregator.api.dependencies import REFUSALS, AnyDevice, AnyPrecedence, AnyService
from fedfer.aggregator.body_limits import JSON

router = APIRouter(responses=REFUSALS)


@router.post("/v1/work", response_model=replies.WorkReply)
async def work(
    device: AnyDevice,
    service: AnyService,
    precedence: AnyPrecedence,
    body: replies.WorkRequest | None = None,
) -> Response:
    """Joins the device to an open round if there is a free place, or tells it to wait or stop."""
    name = body.run if body else None
    # All devices ask, all the time: most are told at once that they have to wait, without a thread, which
    # would wait for its turn among those that take in uploads.
    found = service.settled_work(device, name)
    if found is None:
        with precedence.asking():
            found = await run_in_threadpool(service.work, device, name)
    return Response(replies.work_reply(*found).model_dump_json(), media_type=JSON)
