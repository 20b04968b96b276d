"""Starting an aggregator on a data directory, new or used: from settings to a service that can answer."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from fedfer.aggregator.blobs import Blobs
from fedfer.aggregator.closer import Closer, log_state
from fedfer.aggregator.config import RunConfig, ServerConfig
from fedfer.aggregator.metrics import Metrics
from fedfer.aggregator.model_runs import load_holdout
from fedfer.aggregator.run_opening import begin_or_go_on, check_files, load_run_model, tell_of_settings
from fedfer.aggregator.run_store import RunRow
from fedfer.aggregator.runs import Run
from fedfer.aggregator.service import Service
from fedfer.aggregator.store import Store
from fedfer.model.errors import RefusedError, StoreError, UsageError

if TYPE_CHECKING:
    from fedfer.aggregator.bucket import BucketUrl  # of an extra

logger = logging.getLogger("fedfer.aggregator")
Clock = Callable[[], float]


class Opener:
    """Brings runs to life, each with its closer."""

    def __init__(self, config: ServerConfig, store: Store, clock: Clock, metrics: Metrics) -> None:
        self._config, self._store, self._clock, self._metrics = config, store, clock, metrics
        self._closers: list[Closer] = []

    def open_all(self) -> list[Run]:
        """The runs of the settings and those that the store holds besides. Raises FedferError."""
        with _disk_errors(self._store):
            if self._config.database_url is not None:
                self._store.check_none_is_left()
            if self._config.weights_url is not None:
                self._send_missing()
            for run in self._config.runs:
                begin_or_go_on(run, self._store, self._config.runtime, self._clock)
            return [self._open(row) for row in self._store.runs.rows()]

    def open_new(self, run: RunConfig) -> Run:
        """A run that an operator adds. Raises FedferError."""
        if self._store.runs.find(run.name) is not None:
            raise RefusedError(f"run {run.name} exists", code="run_exists", status=409)
        with _disk_errors(self._store):
            return self._open(begin_or_go_on(run, self._store, self._config.runtime, self._clock))

    def problems(self) -> dict[str, str]:
        """By run, why its round cannot be closed."""
        return dict(problem for closer in self._closers if (problem := closer.problem))

    def close(self) -> None:
        for closer in self._closers:
            closer.ask_to_stop()
        for closer in self._closers:
            closer.stop()

    def _send_missing(self) -> None:
        """A bucket that is away does not keep a server from giving out what its directory has."""
        try:
            self._store.blobs.send_missing(_deleted(self._store))
        except StoreError as error:
            logger.error("%s; what it may lack stays in the data directory, and is sent at a start", error)

    def _open(self, row: RunRow) -> Run:
        contract = load_run_model(self._store.blobs, row.model)
        run = Run(row, self._store, contract, self._clock, self._config)
        check_files(run)
        holdout = load_holdout(run.settings.holdout, contract)
        run.holdout_examples = len(holdout) if holdout else 0
        tell_of_settings(run)
        run.start_up()
        if not run.settings.keep_updates:
            run.blobs.drop_updates_before(run.name, run.round_.number + run.is_over)
        log_state(run)
        closer = Closer(run, holdout, self._config.runtime, self._metrics)
        self._closers.append(closer)
        closer.start()
        return run


@contextmanager
def running_service(
    config: ServerConfig, metrics: Metrics | None = None, clock: Clock | None = None
) -> Iterator[Service]:
    """A service whose rounds are closed, by the machine's clock or another. Raises FedferErrors that a person
    can act on."""
    clock = clock or steady_clock()
    with (
        closing(_open_store(config)) as store,
        closing(Opener(config, store, clock, metrics or Metrics())) as opener,
    ):
        service = Service(config, store, clock, opener.open_all(), opener.open_new)
        service.closing_problems = opener.problems
        yield service


def steady_clock() -> Clock:
    """Seconds since the epoch that never jump while this process lives."""
    offset_sec = time.time() - time.monotonic()
    return lambda: time.monotonic() + offset_sec


def _deleted(store: Store) -> set[str]:
    """The sha256 of what retention has deleted: a directory that was taken over from may have it still."""
    versions = [version for run in store.runs.rows() for version in store.versions(run.name).all()]
    kept = {name for version in versions if version.is_kept for name in (version.weights, version.state)}
    return {name for version in versions for name in (version.weights, version.state) if name} - kept


def _open_store(config: ServerConfig) -> Store:
    try:
        blobs = _open_blobs(config)
    except OSError as error:
        raise StoreError(f"cannot use {config.data_dir}: {error.strerror}") from None
    try:
        return Store(blobs, config.database_url)
    except BaseException:
        blobs.close()
        raise


def _open_blobs(config: ServerConfig) -> Blobs:
    if config.weights_url is None:
        return Blobs(config.data_dir)
    url = bucket_url(config.weights_url)
    from fedfer.aggregator.bucket import Bucket
    from fedfer.aggregator.mirrored_blobs import MirroredBlobs

    return MirroredBlobs(config.data_dir, Bucket(url), config.cache_bytes)


def bucket_url(text: str) -> "BucketUrl":
    """Raises UsageError for what is no bucket's URL, and without the package that buckets need."""
    try:
        from fedfer.aggregator.bucket import parse_url
    except ImportError as error:
        raise UsageError(f"weights-url needs a package ({error}); pip install 'fedfer[s3]'") from None
    return parse_url(text)


@contextmanager
def _disk_errors(store: Store) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"cannot write to {store.blobs.root}: {error.strerror}") from None
