"""Calls for who watches the server: whether it answers, whether it can do its work, what it has done."""

from fastapi import APIRouter, Request, Response
from starlette.responses import JSONResponse

from fedfer.aggregator import replies
from fedfer.aggregator.health import Health
from fedfer.aggregator.metrics import CONTENT_TYPE, Metrics

router = APIRouter()


@router.get("/healthz")
async def get_health() -> replies.HealthReply:
    """Answers while the process does."""
    return replies.HealthReply()


@router.get("/readyz", responses={503: {"model": replies.ReadyReply}})
def get_ready(request: Request) -> replies.ReadyReply:
    """200 while the server can do its work, 503 with what is wrong."""
    health: Health = request.app.state.health
    found = health.readiness()
    reply = replies.ReadyReply(ready=found.is_ready, problems=dict(found.problems))
    if found.is_ready:
        return reply
    return JSONResponse(reply.model_dump(), status_code=503)  # type: ignore[return-value]


@router.get("/metrics", response_class=Response)
def get_metrics(request: Request) -> Response:
    """All metrics in Prometheus's text format."""
    metrics: Metrics = request.app.state.metrics
    return Response(metrics.page(), media_type=CONTENT_TYPE)
