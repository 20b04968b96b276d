"""Calls about devices."""

from fastapi import APIRouter, Depends

from fedfer.aggregator import access, replies
from fedfer.aggregator.api.dependencies import REFUSALS, AnyService

router = APIRouter(responses=REFUSALS)


@router.post("/v1/devices", status_code=201, dependencies=[Depends(access.enrolling)])
def enrol(body: replies.EnrolRequest, service: AnyService) -> replies.EnrolReply:
    """Enrols a device and gives it a token."""
    device, token = service.enrol(body.name, body.contract)
    return replies.EnrolReply(device_id=device.id, token=token)
