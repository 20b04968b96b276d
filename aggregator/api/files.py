"""Calls that fetch models and versions, and the one that brings a model."""

import contextlib

import anyio
from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from fedfer.aggregator import downloads, replies, uploads
from fedfer.aggregator.api.dependencies import (
    REFUSALS,
    AnyPrecedence,
    AnyService,
    AsAdmin,
    AsReader,
    patience_of,
)
from fedfer.aggregator.service import Service
from fedfer.export.contract import MAX_MODEL_BYTES
from fedfer.model.errors import StoreError

router = APIRouter(responses=REFUSALS)


@router.get("/v1/models/{sha256}", dependencies=[AsReader], response_class=Response)
async def get_model(sha256: replies.Sha256, request: Request, service: AnyService) -> Response:
    """The `.tflite` of a run."""
    return await _send_file("model", sha256, request, service)


@router.get("/v1/weights/{sha256}", dependencies=[AsReader], response_class=Response)
async def get_weights(sha256: replies.Sha256, request: Request, service: AnyService) -> Response:
    """A version: weights that a round started from or ended with."""
    return await _send_file("weights", sha256, request, service)


MODEL_BODY = {
    "requestBody": {
        "required": True,
        "content": {uploads.CONTENT_TYPE: {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.put("/v1/models/{sha256}", status_code=201, dependencies=[AsAdmin], openapi_extra=MODEL_BODY)
async def put_model(
    sha256: replies.Sha256, request: Request, service: AnyService, precedence: AnyPrecedence
) -> replies.ModelReply:
    """Takes a `.tflite` that `fedfer export` made, for runs to use."""
    path = service.store.blobs.temporary_path()
    async with uploads.received(request, path, MAX_MODEL_BYTES, patience_of(service, precedence)) as received:
        contract = await run_in_threadpool(service.keep_model, received, sha256)
    return replies.ModelReply(model=sha256, contract=contract.digest)


async def _send_file(kind: str, sha256: str, request: Request, service: Service) -> Response:
    file = await run_in_threadpool(service.open_file, kind, sha256)

    async def count(num_bytes: int) -> None:
        with anyio.CancelScope(shield=True), contextlib.suppress(StoreError):
            await run_in_threadpool(service.count_download, kind, sha256, num_bytes)

    return await downloads.file_response(file, sha256, request.headers, count)
