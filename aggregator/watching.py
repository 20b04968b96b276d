"""What is looked at of a running service: the checks behind `/readyz`, the gauges behind `/metrics`."""

import time
from collections.abc import Callable, Mapping

from fedfer.aggregator.health import Check, FileCheck, Health, check_disk, free_bytes
from fedfer.aggregator.metrics import RunSample, StateSample
from fedfer.aggregator.runs import Run
from fedfer.aggregator.service import Service
from fedfer.model.errors import StoreError


def health_of(service: Service, clock: Callable[[], float] = time.monotonic) -> Health:
    """The health of this service, by the checks that docs/deploying.md names."""
    files = FileCheck()

    def disk() -> None:
        blobs = service.store.blobs
        check_disk(blobs.root, blobs.temporary_path(), service.max_upload_bytes)

    def versions() -> None:
        for run in service.runs.values():
            _check_files(run, files)

    checks: dict[str, Check] = {
        "database": service.store.database.probe,
        "disk": disk,
        "files": versions,
        "bucket": service.store.blobs.check_bucket,
        "closing": lambda: _raise_first(service.closing_problems()),
    }
    return Health(checks, clock)


def sample_of(service: Service, health: Health) -> StateSample:
    """Where the service stands. Raises StoreError."""
    try:
        free = free_bytes(service.store.blobs.root)
    except OSError:
        free = None
    return StateSample(
        num_devices=service.store.devices.count(),
        free_bytes=free,
        ready=health.readiness().is_ready,
        runs=[_run_sample(run) for run in service.runs.values()],
    )


def _run_sample(run: Run) -> RunSample:
    newest, version = run.round_, run.versions.of_weights(run.newest_weights)
    return RunSample(
        run=run.name,
        state=run.state,
        round=newest.number,
        num_updates=len(newest.updates),
        holdout_loss=version.holdout_loss,
        holdout_accuracy=version.holdout_accuracy,
    )


def _check_files(run: Run, files: FileCheck) -> None:
    """Raises StoreError unless devices can fetch the run's model and newest version as they are named."""
    for path, digest in (
        (run.blobs.model_path(run.model), run.model),
        (run.blobs.version_path(run.newest_weights), run.newest_weights),
    ):
        files.check(run.blobs.present(path), digest)


def _raise_first(problems: Mapping[str, str]) -> None:
    for run, problem in problems.items():
        raise StoreError(f"run {run}: {problem}")
