"""The call that says whether the process answers."""

from fastapi import APIRouter

from fedfer.aggregator import replies
from fedfer.aggregator.api.dependencies import REFUSALS

router = APIRouter(responses=REFUSALS)


@router.get("/healthz")
async def get_health() -> replies.HealthReply:
    """Answers while the process does."""
    return replies.HealthReply()
