"""Calls about a run's versions: listing, comparing, tagging them."""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from fedfer.aggregator import replies
from fedfer.aggregator.api.dependencies import REFUSALS, AnyRun, AsAdmin, AsReader

router = APIRouter(responses=REFUSALS)
VersionName = Annotated[str, Query(min_length=1, max_length=64)]


@router.get("/v1/runs/{run}/versions", dependencies=[AsReader])
def get_versions(run: AnyRun) -> replies.VersionsReply:
    """All versions, oldest first."""
    found, updates = run.versions.all(), run.versions.updates()
    return replies.VersionsReply(
        versions=[replies.version_reply(version, found, updates) for version in found]
    )


@router.get("/v1/runs/{run}/versions/compare", dependencies=[AsReader])
def compare(run: AnyRun, a: VersionName, b: VersionName) -> replies.ComparisonReply:
    """How version b differs from a; each named by a tag, a sha256 or a round."""
    found = run.versions.compare(a, b, run.contract)
    return replies.comparison_reply(found, run.versions.all(), run.versions.updates())


@router.post("/v1/runs/{run}/tags", dependencies=[AsAdmin])
def tag(run: AnyRun, body: replies.TagRequest) -> replies.VersionReply:
    """Names a version, or moves a name to it. Retention keeps versions with a tag."""
    tagged = run.versions.tag(body.tag, body.version)
    return replies.version_reply(tagged, run.versions.all(), run.versions.updates())


@router.delete("/v1/runs/{run}/tags/{tag}", status_code=204, dependencies=[AsAdmin])
def untag(run: AnyRun, tag: Annotated[str, Path(max_length=64)]) -> None:
    """Takes a name away."""
    run.versions.untag(tag)
