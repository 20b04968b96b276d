"""Calls by which a device goes on with an upload that was cut off."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response

from fedfer.aggregator import replies
from fedfer.aggregator.api.dependencies import (
    REFUSALS,
    AnyDevice,
    AnyPrecedence,
    AnyService,
    AnyUploads,
    patience_of,
)
from fedfer.aggregator.uploads import CONTENT_TYPE

OFFSET = "Upload-Offset"
BODY = {"content": {CONTENT_TYPE: {"schema": {"type": "string", "format": "binary"}}}, "required": True}
SHOWN: dict[int | str, dict[str, Any]] = {
    204: {"headers": {OFFSET: {"schema": {"type": "integer"}, "description": "Bytes that came so far."}}}
}
router = APIRouter(responses=REFUSALS)


@router.head("/v1/uploads/{sha256}", status_code=204, responses=SHOWN)
async def get_offset(sha256: replies.Sha256, device: AnyDevice, uploads: AnyUploads) -> Response:
    """How much of this device's upload came so far; 0 if none did."""
    return _at(await uploads.offset(device.id, sha256))


@router.patch("/v1/uploads/{sha256}", status_code=204, responses=SHOWN, openapi_extra={"requestBody": BODY})
async def append(
    request: Request,
    sha256: replies.Sha256,
    device: AnyDevice,
    service: AnyService,
    uploads: AnyUploads,
    precedence: AnyPrecedence,
    upload_offset: Annotated[str | None, Header(description="Bytes that came so far.")] = None,
) -> Response:
    """Adds the next bytes; they are durable when it answers."""
    max_bytes, patience = service.max_upload_bytes, patience_of(service, precedence)
    return _at(await uploads.append(request, device.id, sha256, upload_offset, max_bytes, patience))


@router.delete("/v1/uploads/{sha256}", status_code=204)
async def give_up(sha256: replies.Sha256, device: AnyDevice, uploads: AnyUploads) -> Response:
    """Forgets what came."""
    await uploads.drop(device.id, sha256)
    return Response(status_code=204)


def _at(offset: int) -> Response:
    return Response(status_code=204, headers={OFFSET: str(offset)})
