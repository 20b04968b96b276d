"""Calls about devices."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Response
from starlette.concurrency import run_in_threadpool

from fedfer.aggregator import access, replies
from fedfer.aggregator.api.dependencies import REFUSALS, AnyService, AnyUploads, AsAdmin

router = APIRouter(responses=REFUSALS)


@router.post("/v1/devices", status_code=201, dependencies=[Depends(access.enrolling)])
def enrol(body: replies.EnrolRequest, service: AnyService) -> replies.EnrolReply:
    """Enrols a device and gives it a token; with its last token, the same device again."""
    enrolled = service.enrol(body.name, body.contract, body.token)
    return replies.EnrolReply(
        device_id=enrolled.device.id,
        token=enrolled.token,
        token_expires_at=replies.iso(enrolled.expires_at),
    )


@router.delete("/v1/devices/{device_id}", status_code=204, dependencies=[AsAdmin])
async def revoke(
    device_id: Annotated[str, Path(max_length=64)], service: AnyService, uploads: AnyUploads
) -> Response:
    """Refuses a device from now on; what it reported before stays counted."""
    await run_in_threadpool(service.revoke, device_id)
    await uploads.drop_device(device_id)
    return Response(status_code=204)
