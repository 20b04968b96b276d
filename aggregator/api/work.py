"""The call by which a device learns what to do."""

from fastapi import APIRouter

from fedfer.aggregator import replies
from fedfer.aggregator.api.dependencies import REFUSALS, AnyDevice, AnyService

router = APIRouter(responses=REFUSALS)


@router.post("/v1/work")
def work(
    device: AnyDevice, service: AnyService, body: replies.WorkRequest | None = None
) -> replies.WorkReply:
    """Joins the device to an open round if there is a free place, or tells it to wait or stop."""
    return replies.work_reply(*service.work(device, body.run if body else None))
