"""Calls that tell what happened in a run's rounds."""

from fastapi import APIRouter

from fedfer.aggregator import replies
from fedfer.aggregator.api.dependencies import REFUSALS, AnyRun, AsReader, RoundNumber
from fedfer.aggregator.rounds import unknown_round

router = APIRouter(responses=REFUSALS)


@router.get("/v1/runs/{run}/rounds", dependencies=[AsReader])
def get_rounds(run: AnyRun) -> replies.RoundsReply:
    """What happened in all rounds, oldest first."""
    counts = run.refusals.counts()
    return replies.RoundsReply(
        rounds=[replies.round_reply(row, counts.get(row["number"], 0)) for row in run.rounds.rows()]
    )


@router.get("/v1/runs/{run}/rounds/{round}", dependencies=[AsReader])
def get_round(run: AnyRun, round: RoundNumber) -> replies.OneRoundReply:
    """What happened in one round; round 0 is the initial checkpoint."""
    rows = run.rounds.rows(round)
    if not rows:
        raise unknown_round(round, run.round_.number)
    return replies.one_round_reply(rows[0], run.refusals.rows(round))
