"""What a run's versions tell: which led to the newest, which is the best, whether it is over. Pure."""

from collections.abc import Sequence

from fedfer.aggregator.config import RunSettings
from fedfer.aggregator.results import End, Result
from fedfer.aggregator.rounds import Round
from fedfer.aggregator.stopping import MeasuredVersion, StoppingSettings, judge
from fedfer.aggregator.version_store import Version


def lineage(versions: Sequence[Version], newest_round: int) -> list[Version]:
    """The version of that round and all that it came of, oldest first: what was rolled back is not in it."""
    by_round = {version.round: version for version in versions}
    found: list[Version] = []
    wanted: int | None = newest_round
    while wanted is not None and wanted in by_round:
        found.append(by_round[wanted])
        wanted = by_round[wanted].parent_round
    return found[::-1]


def best_of(line: Sequence[Version], settings: RunSettings) -> str | None:
    """The weights with the best holdout measure whose file is kept; None if nothing was measured."""
    kept = [version for version in line if version.is_kept]
    best = judge(_measured(kept), settings.stopping or StoppingSettings()).best
    return best.weights if best else None


def end_of(
    line: Sequence[Version], round_: Round, result: Result, settings: RunSettings, num_rolled_back: int = 0
) -> End | None:
    """Whether the run is over with this round; `line` is the lineage of the version it started from, from
    which so many rounds before this one led nowhere: each is one more that brought no improvement."""
    if settings.stopping is not None and result.outcome in ("committed", "rolled_back"):
        is_committed = result.outcome == "committed"
        measured = _measured(line)
        measured += measured[-1:] * (num_rolled_back + (not is_committed))
        measured += _candidate(round_, result) if is_committed else []
        reason = judge(measured, settings.stopping).stop_reason
        if reason is not None:
            return End("plateau", reason)
    if round_.number >= settings.num_rounds:
        return End("rounds", f"all {settings.num_rounds} rounds are done")
    return None


def _candidate(round_: Round, result: Result) -> list[MeasuredVersion]:
    if result.holdout_loss is None or result.holdout_accuracy is None:
        return []
    return [MeasuredVersion(round_.number, result.weights, result.holdout_loss, result.holdout_accuracy)]


def _measured(versions: Sequence[Version]) -> list[MeasuredVersion]:
    return [
        MeasuredVersion(v.round, v.weights, v.holdout_loss, v.holdout_accuracy)
        for v in versions
        if v.holdout_loss is not None and v.holdout_accuracy is not None
    ]
