"""What becomes of a round's updates: gates, the strategy, the holdout set, and a result to commit.

A function of the round, its files and the run's settings alone: whatever order the updates came in and
however often this is cut short and done again, the result is the same, bit for bit.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from fedfer.aggregator.blobs import Blobs
from fedfer.aggregator.config import RunSettings
from fedfer.aggregator.faults import reach
from fedfer.aggregator.gates import Rejection, gate_candidate, gate_norms, gate_update
from fedfer.aggregator.norms import delta_norms
from fedfer.aggregator.results import Result
from fedfer.aggregator.rounds import Round, UpdateKey
from fedfer.aggregator.strategies.base import Aggregate, Strategy
from fedfer.aggregator.update_reader import WeightedFile, in_order
from fedfer.export.checkpoint import checkpoint_pieces, digest_of
from fedfer.export.contract import Contract
from fedfer.model.errors import StoreError
from fedfer.model.measures import Measures

CHECKS_AT_ONCE = 4
logger = logging.getLogger("fedfer.aggregator")
Measure = Callable[[Path], Measures | None]  # of a checkpoint on the holdout set, None without one


@dataclass(frozen=True)
class RoundFiles:
    """A closed round as files: the version it starts from, the strategy's state, the updates."""

    parent: Path
    state: Path | None
    updates: Mapping[UpdateKey, WeightedFile]


@dataclass(frozen=True)
class Candidate:
    """What was made of a round's updates: the sha256 of its weights, and of the strategy's state if there is
    one."""

    weights: str
    state: str | None


def files_of(round_: Round, run: str, blobs: Blobs, base_of: Callable[[int], str | None]) -> RoundFiles:
    """The files of a round. `base_of` names the weights that an earlier round started from."""
    updates = {}
    paths = _checked_updates(round_, run, blobs)
    for key, update in round_.updates.items():
        sent = WeightedFile(update.sha256, update.num_examples, update.device_id, paths[key])
        base = round_.base.weights if update.work_round == round_.number else base_of(update.work_round)
        if base is not None and base != round_.base.weights:
            staleness = round_.number - update.work_round
            sent = replace(sent, base=blobs.checked(blobs.version_path(base)), staleness=staleness)
        updates[key] = sent
    state = round_.base.state
    return RoundFiles(
        parent=blobs.checked(blobs.version_path(round_.base.weights)),
        state=None if state is None else blobs.checked(blobs.state_path(state)),
        updates=updates,
    )


def _checked_updates(round_: Round, run: str, blobs: Blobs) -> dict[UpdateKey, Path]:
    """A few at a time: hashing an update takes twice as long as averaging it."""
    places = {key: blobs.update_path(run, round_.number, u.sha256) for key, u in round_.updates.items()}
    distinct = list(dict.fromkeys(places.values()))
    with ThreadPoolExecutor(CHECKS_AT_ONCE) as pool:
        checked = dict(zip(distinct, pool.map(blobs.checked, distinct), strict=True))
    return {key: checked[place] for key, place in places.items()}


def rejections_of(
    files: RoundFiles, settings: RunSettings, contract: Contract, measure: Measure
) -> dict[UpdateKey, Rejection]:
    """Which updates the gates turn away. Raises CheckpointError, InterpreterError."""
    keys = list(files.updates)
    rejected: dict[UpdateKey, Rejection] = {}
    if settings.gates.max_norm_ratio is not None:
        norms = delta_norms(files.parent, [files.updates[key] for key in keys], contract)
        names = {repr(key): key for key in keys}
        found = gate_norms(dict(zip(names, norms, strict=True)), settings.gates)
        rejected = {names[name]: rejection for name, rejection in found.items()}
    parent = None if settings.gates.max_update_drop is None else measure(files.parent)
    if parent is not None:
        for key in keys:
            alone = None if key in rejected else measure(files.updates[key].path)
            rejection = None if alone is None else gate_update(parent, alone, settings.gates)
            if rejection is not None:
                rejected[key] = rejection
    return rejected


def aggregate(
    files: RoundFiles,
    kept: Sequence[WeightedFile],
    strategy: Strategy,
    contract: Contract,
    blobs: Blobs,
    claim: Callable[[Path], None],
) -> Candidate:
    """Writes the candidate and the strategy's state, each claimed before. Raises CheckpointError,
    StoreError."""
    made: Aggregate = strategy.aggregate(files.parent, in_order(kept), files.state, contract)
    reach("averaged")
    pieces = checkpoint_pieces(made.weights, contract)
    weights = digest_of(*pieces)
    state = None if made.state is None else digest_of(made.state)
    claim(blobs.version_path(weights))
    if state is not None:
        claim(blobs.state_path(state))
    try:
        if made.state is not None and state is not None:
            blobs.write(blobs.state_path(state), made.state)
            reach("state_written")
        blobs.write(blobs.version_path(weights), *pieces)
        reach("version_written")
    except OSError as error:
        raise StoreError(f"cannot write version {weights}: {error.strerror}") from None
    return Candidate(weights, state)


def result_of(
    round_: Round,
    candidate: Candidate,
    measures: tuple[Measures | None, Measures | None],
    settings: RunSettings,
    rejections: Mapping[UpdateKey, Rejection],
    now: float,
) -> Result:
    """What the round ends with; `measures` are the parent's and the candidate's."""
    before, after = measures
    worse = None
    if before is not None and after is not None:
        worse = gate_candidate(before, after, settings.gates)
    return Result(
        outcome="rolled_back" if worse else "committed",
        weights=round_.base.weights if worse else candidate.weights,
        closed_at=now,
        candidate=candidate.weights,
        state=None if worse else candidate.state,
        holdout_loss=after.loss if after else None,
        holdout_accuracy=after.accuracy if after else None,
        reason=worse.reason if worse else None,
        rejections=rejections,
    )


def without_candidate(
    round_: Round, rejections: Mapping[UpdateKey, Rejection], needed: int, now: float
) -> Result:
    """The result of a round of which the gates left too little."""
    left = len(round_.updates) - len(rejections)
    return Result(
        outcome="no_updates",
        weights=round_.base.weights,
        closed_at=now,
        reason=f"{left} of {len(round_.updates)} updates passed the gates; the strategy needs {needed}",
        rejections=rejections,
    )
