"""Starting an aggregator on a data directory, new or used: from settings to a service that can answer."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from fedfer.aggregator import rounds
from fedfer.aggregator.blobs import Blobs
from fedfer.aggregator.closer import Closer, log_state
from fedfer.aggregator.config import ServerConfig
from fedfer.aggregator.model_runs import initial_checkpoint, load_holdout, measure_version
from fedfer.aggregator.rounds import Round
from fedfer.aggregator.service import Service
from fedfer.aggregator.store import Store, result_of
from fedfer.export.checkpoint import digest_of
from fedfer.export.contract import Contract, load_model_bytes, read_contract
from fedfer.model.data import LabelledImages
from fedfer.model.errors import StoreError

logger = logging.getLogger("fedfer.aggregator")
Clock = Callable[[], float]


@contextmanager
def running_service(config: ServerConfig) -> Iterator[Service]:
    """A service with its closer running. Raises FedferErrors that a person can act on."""
    model = load_model_bytes(config.model)
    contract = read_contract(model)
    holdout = load_holdout(config, contract)
    with closing(_open_store(config)) as store:
        try:
            service = _open(config, store, contract, model, holdout)
        except OSError as error:
            raise StoreError(f"cannot write to {config.data_dir}: {error.strerror}") from None
        closer = Closer(service, holdout)
        log_state(service)
        closer.start()
        try:
            yield service
        finally:
            closer.stop()


def steady_clock() -> Clock:
    """Seconds since the epoch that never jump while this process lives."""
    offset_sec = time.time() - time.monotonic()
    return lambda: time.monotonic() + offset_sec


def _open_store(config: ServerConfig) -> Store:
    try:
        blobs = Blobs(config.data_dir)
    except OSError as error:
        raise StoreError(f"cannot use {config.data_dir}: {error.strerror}") from None
    try:
        return Store(blobs, config.database_url)
    except BaseException:
        blobs.close()
        raise


def _open(
    config: ServerConfig, store: Store, contract: Contract, model: bytes, holdout: LabelledImages | None
) -> Service:
    clock, name = steady_clock(), digest_of(model)
    store.bind(name, contract.digest)
    store.blobs.write(model, store.blobs.model_path(name))
    if store.latest_round() is None:
        _begin(config, store, contract, holdout, clock)
    elif config.initial_weights is not None:
        _check_same_start(store, initial_checkpoint(config, contract))
    _check_files(store)
    service = Service(config, store, contract, name, clock, len(holdout) if holdout else 0)
    _tell_of_settings(service.round_, config)
    service.resume()
    if not config.keep_updates:
        store.blobs.drop_updates_before(service.round_.number + service.is_finished)
    return service


def _begin(
    config: ServerConfig, store: Store, contract: Contract, holdout: LabelledImages | None, clock: Clock
) -> None:
    """The initial version, measured, as round 0, and round 1 opened."""
    data = initial_checkpoint(config, contract)
    weights = digest_of(data)
    version = store.blobs.version_path(weights)
    store.blobs.write(data, version)
    measures = measure_version(config.model, version, holdout, config.runtime)
    now = clock()
    store.begin(result_of(weights, now, measures), rounds.open_round(1, weights, config.rounds, now))


def _check_same_start(store: Store, initial: bytes) -> None:
    started_from = store.round_rows(0)[0]["result_weights"]
    if started_from != digest_of(initial):
        raise StoreError(
            f"{store.blobs.root} started from weights {started_from}; expected {digest_of(initial)}: "
            "leave --weights out to go on, or take another directory"
        )


def _check_files(store: Store) -> None:
    """Raises StoreError if a file that the next steps need is gone or damaged."""
    latest = store.latest_round()
    if latest is None:
        raise StoreError("the database has no round; restore a copy of it")
    round_, result = latest
    newest = result or round_.base_weights
    version = store.blobs.version_path(newest)
    if not version.is_file() or digest_of(version.read_bytes()) != newest:
        raise _damaged(version)
    if round_.phase != "done":
        for update in round_.updates.values():
            path = store.blobs.update_path(round_.number, update.sha256)
            if not path.is_file() or path.stat().st_size != update.received_bytes:
                raise _damaged(path)


def _tell_of_settings(round_: Round, config: ServerConfig) -> None:
    """An open round goes on as it began; who gave other settings has to know."""
    wanted = replace(config.rounds, min_clients=config.rounds.required_clients)
    if round_.phase == "open" and round_.settings != wanted:
        logger.warning(
            "round %d goes on as it was opened, with %s; the settings given now hold from the next round on",
            round_.number,
            round_.settings,
        )


def _damaged(path: Path) -> StoreError:
    return StoreError(f"{path} is missing or damaged; restore it from a copy of the data directory")
