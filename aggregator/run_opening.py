"""One run's way into the store, and out of it again: its model, its first checkpoint, its settings."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fedfer.aggregator import rounds
from fedfer.aggregator.blobs import Blobs
from fedfer.aggregator.config import RunConfig
from fedfer.aggregator.faults import reach
from fedfer.aggregator.model_runs import initial_checkpoint, load_holdout, measure_version
from fedfer.aggregator.results import Result
from fedfer.aggregator.round_opening import opening_settings
from fedfer.aggregator.rounds import Base
from fedfer.aggregator.run_files import settings_json
from fedfer.aggregator.run_store import RunRow
from fedfer.aggregator.runs import Run
from fedfer.aggregator.store import Store
from fedfer.export.checkpoint import digest_of
from fedfer.export.contract import Contract, load_model_bytes, read_contract
from fedfer.model.errors import StoreError

logger = logging.getLogger("fedfer.aggregator")


def begin_or_go_on(config: RunConfig, store: Store, runtime: str, clock: Callable[[], float]) -> RunRow:
    """The run as it is stored, with the settings given now. Raises FedferError, OSError."""
    model = load_model_bytes(config.model)
    contract, name = read_contract(model), digest_of(model)
    row = store.runs.find(config.name)
    if row is None:
        load_holdout(config.settings.holdout, contract)  # before anything is written: it may not be there
        opening_settings(config.settings)
        keep_model(model, contract, store, clock())
        return _begin(config, name, contract, store, runtime, clock)
    if row.model != name:
        raise StoreError(
            f"{store.blobs.root} holds model {row.model} for run {row.name}; expected {name}: "
            "serve the model it was made for, or take another name or directory"
        )
    if config.initial_weights is not None:
        _check_same_start(store, row.name, initial_checkpoint(config, contract, runtime))
    settings = settings_json(config.settings)
    if settings != row.settings:
        store.runs.set_settings(row.name, settings)
    return RunRow(row.name, row.model, settings, row.state, row.end, row.created_at)


def keep_model(model: bytes, contract: Contract, store: Store, now: float) -> str:
    """Stores a model that runs may then use; returns its sha256. Raises StoreError, OSError."""
    name = digest_of(model)
    store.blobs.write(store.blobs.model_path(name), model)
    reach("model_kept")
    store.runs.add_model(name, contract.digest, now)
    return name


def load_run_model(blobs: Blobs, sha256: str) -> Contract:
    """The contract of a stored model. Raises StoreError if its file is gone or damaged."""
    path = blobs.present(blobs.model_path(sha256))
    if not path.is_file() or digest_of(path.read_bytes()) != sha256:
        raise _damaged(path)
    return read_contract(path)


def check_files(run: Run) -> None:
    """Raises StoreError if a file that the next steps need is gone or damaged, CheckpointError if the
    strategy cannot go on from what another one remembers."""
    version = run.blobs.present(run.blobs.version_path(run.newest_weights))
    if not version.is_file() or digest_of(version.read_bytes()) != run.newest_weights:
        raise _damaged(version)
    if run.round_.phase != "done" and not run.is_over:
        if run.round_.base.state is not None:
            state = run.blobs.present(run.blobs.state_path(run.round_.base.state))
            run.strategy.check_state(state, run.contract)
        for update in run.round_.updates.values():
            path = run.blobs.present(run.blobs.update_path(run.name, run.round_.number, update.sha256))
            if not path.is_file() or path.stat().st_size != update.received_bytes:
                raise _damaged(path)


def tell_of_settings(run: Run) -> None:
    """An open round goes on as it began; who gave other settings has to know."""
    wanted, opened = run.round_settings, run.round_.settings
    if wanted.fraction is not None:
        opened = replace(opened, num_clients=wanted.num_clients, fraction=wanted.fraction)
    if run.round_.phase == "open" and not run.is_over and opened != wanted:
        logger.warning(
            "run %s: round %d goes on as it was opened, with %s; the settings given now hold from the next "
            "round on",
            run.name,
            run.round_.number,
            run.round_.settings,
        )


def _begin(
    config: RunConfig,
    model: str,
    contract: Contract,
    store: Store,
    runtime: str,
    clock: Callable[[], float],
) -> RunRow:
    """The initial version, measured, as round 0, and round 1 opened."""
    data = initial_checkpoint(config, contract, runtime)
    weights = digest_of(data)
    version = store.blobs.version_path(weights)
    with store.claims.held() as claim:
        claim(version)
        store.blobs.write(version, data)
        reach("initial_version_written")
        holdout = load_holdout(config.settings.holdout, contract)
        measures = measure_version(config.model, version, holdout, runtime)
        now = clock()
        row = RunRow(config.name, model, settings_json(config.settings), "running", None, now)
        first = rounds.open_round(1, Base(weights), opening_settings(config.settings), now)
        loss, accuracy = (measures.loss, measures.accuracy) if measures else (None, None)
        initial = Result("committed", weights, now, weights, None, loss, accuracy)
        store.rounds(config.name).begin(row, initial, first)
    reach("run_begun")
    return row


def _check_same_start(store: Store, run: str, initial: bytes) -> None:
    started_from = store.rounds(run).rows(0)[0]["result_weights"]
    if started_from != digest_of(initial):
        raise StoreError(
            f"{store.blobs.root} started from weights {started_from}; expected {digest_of(initial)}: "
            "leave --weights out to go on, or take another directory"
        )


def _damaged(path: Path) -> StoreError:
    return StoreError(f"{path} is missing or damaged; restore it from a copy of the data directory")
