"""The call by which a device learns what to do."""

from fastapi import APIRouter, Response

from fedfer.aggregator import replies
from fedfer.aggregator.api.dependencies import REFUSALS, AnyAsking, AnyDevice
from fedfer.aggregator.body_limits import JSON

router = APIRouter(responses=REFUSALS)


@router.post("/v1/work", response_model=replies.WorkReply)
async def work(device: AnyDevice, asking: AnyAsking, body: replies.WorkRequest | None = None) -> Response:
    """Joins the device to an open round if there is a free place, or tells it to wait or stop."""
    found = await asking.work(device, body.run if body else None)
    return Response(replies.work_reply(*found).model_dump_json(), media_type=JSON)
