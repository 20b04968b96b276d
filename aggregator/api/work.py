"""The call by which a device learns what to do."""

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool

from fedfer.aggregator import replies
from fedfer.aggregator.api.dependencies import REFUSALS, AnyDevice, AnyService

router = APIRouter(responses=REFUSALS)


@router.post("/v1/work")
async def work(
    device: AnyDevice, service: AnyService, body: replies.WorkRequest | None = None
) -> replies.WorkReply:
    """Joins the device to an open round if there is a free place, or tells it to wait or stop."""
    name = body.run if body else None
    return replies.work_reply(*await run_in_threadpool(service.work, device, name))
