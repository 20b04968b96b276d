"""Calls about runs: what there are, adding one, pausing, resuming and stopping them."""

from fastapi import APIRouter

from fedfer.aggregator import replies
from fedfer.aggregator.api.dependencies import REFUSALS, AnyRun, AnyService, AsAdmin, AsReader
from fedfer.aggregator.config import RunConfig
from fedfer.aggregator.run_files import parse_settings
from fedfer.model.errors import DataError, RefusedError, UsageError

router = APIRouter(responses=REFUSALS)


@router.get("/v1/runs", dependencies=[AsReader])
def get_runs(service: AnyService) -> replies.RunsReply:
    """All runs, oldest first."""
    return replies.RunsReply(
        runs=[replies.run_reply(run) for run in service.runs.values()],
        num_devices=service.store.devices.count(),
    )


@router.get("/v1/runs/{run}", dependencies=[AsReader])
def get_run(run: AnyRun) -> replies.RunReply:
    """Where one run stands."""
    return replies.run_reply(run)


@router.post("/v1/runs", status_code=201, dependencies=[AsAdmin])
def add_run(body: replies.NewRun, service: AnyService) -> replies.RunReply:
    """Opens a run of a model that this server has."""
    store = service.store
    if not store.runs.has_model(body.model):
        raise RefusedError(f"no model {body.model} here", code="unknown_model", status=404)
    initial = None if body.weights is None else service.file_of("weights", body.weights)
    try:
        settings = parse_settings(body.settings)
        if settings.holdout is not None and settings.holdout.source != "drawn":
            raise UsageError("holdout.source has to be `drawn` here; name files in the server's run files")
        config = RunConfig(
            store.blobs.present(store.blobs.model_path(body.model)), body.name, initial, settings
        )
        return replies.run_reply(service.add_run(config))
    except (UsageError, DataError) as error:
        raise RefusedError(str(error), code="bad_settings") from None


@router.post("/v1/runs/{run}/pause", dependencies=[AsAdmin])
def pause(run: AnyRun) -> replies.RunReply:
    """Gives devices no more work; updates on their way are taken."""
    run.pause()
    return replies.run_reply(run)


@router.post("/v1/runs/{run}/resume", dependencies=[AsAdmin])
def resume(run: AnyRun) -> replies.RunReply:
    """Ends a pause."""
    run.resume()
    return replies.run_reply(run)


@router.post("/v1/runs/{run}/rollback", dependencies=[AsAdmin])
def roll_back(run: AnyRun, body: replies.RollbackRequest) -> replies.RunReply:
    """Gives the open round up; the next one starts from the version named. A run that is over goes on."""
    run.roll_back(body.to)
    return replies.run_reply(run)


@router.post("/v1/runs/{run}/stop", dependencies=[AsAdmin])
def stop(run: AnyRun) -> replies.RunReply:
    """Ends a run for good; its versions stay."""
    run.stop()
    return replies.run_reply(run)
