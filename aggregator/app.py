"""The aggregator's HTTP application: resources, limits, and the calls of `fedfer.aggregator.api`, which
docs/protocol.md describes."""

import contextlib
import time
from collections.abc import AsyncIterator, Callable

import anyio
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from fedfer.aggregator import guards, refusals
from fedfer.aggregator.api import (
    devices,
    files,
    health,
    rounds,
    runs,
    updates,
    uploads,
    versions,
    work,
)
from fedfer.aggregator.config import ServerConfig
from fedfer.aggregator.metrics import Metrics, StateCollector
from fedfer.aggregator.opening import running_service
from fedfer.aggregator.partial_uploads import PartialLimits, PartialUploads
from fedfer.aggregator.precedence import Precedence
from fedfer.aggregator.request_metrics import RequestMetrics
from fedfer.aggregator.resumable import ResumableUploads
from fedfer.aggregator.turns import Turns
from fedfer.aggregator.watching import health_of, sample_of

ROUTERS = (devices, work, files, uploads, updates, runs, rounds, versions, health)


def create_app(config: ServerConfig, clock: Callable[[], float] | None = None) -> FastAPI:
    """The application. It opens its data directory when it starts and closes it when it stops. `clock`, in
    seconds since the epoch, times rounds and tokens: the machine's if not given, a simulation gives its own.

    Starting raises whatever `running_service` does, kept in `app.state.startup_error`.
    """

    metrics = Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        context = running_service(config, metrics, clock)
        try:
            app.state.service = await run_in_threadpool(context.__enter__)
        except Exception as error:
            app.state.startup_error = error
            raise
        root = app.state.service.store.blobs.root / "partial"
        turns = Turns()
        files = await run_in_threadpool(PartialUploads, root, PartialLimits(), time.time, turns.is_busy)
        app.state.uploads = ResumableUploads(files, turns)
        health = app.state.health = health_of(app.state.service)
        metrics.registry.register(StateCollector(lambda: sample_of(app.state.service, health)))
        app.state.precedence = Precedence()
        app.state.checks = anyio.CapacityLimiter(config.max_concurrent_checks)
        try:
            yield
        finally:
            await run_in_threadpool(context.__exit__, None, None, None)

    app = FastAPI(
        title="fedfer aggregator",
        version="1",
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
    )
    app.state.startup_error = None
    app.state.metrics = metrics
    app.state.keyring = config.keyring

    guards.install(app, config.limits, lambda: app.state.service.max_upload_bytes)
    app.add_middleware(
        RequestMetrics, metrics=metrics, has_run=lambda name: name in app.state.service.runs
    )  # around all of it
    for module in ROUTERS:
        app.include_router(module.router)
    refusals.install(app)
    _build_routes(app)
    return app


def _build_routes(app: FastAPI) -> None:
    """FastAPI builds an included route when a request first looks for it: 20 ms in which nobody is answered.
    So one looks here, for what nobody has."""
    scope = {"type": "http", "method": "GET", "path": "/", "root_path": "", "headers": [], "app": app}
    for route in app.routes:
        route.matches(scope)
