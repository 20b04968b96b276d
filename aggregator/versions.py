"""The versions of a run: found by any of their names, compared, tagged, dropped by rule."""

import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fedfer.aggregator.config import RunSettings
from fedfer.aggregator.faults import reach
from fedfer.aggregator.norms import delta_norms
from fedfer.aggregator.retention import KeptVersion, to_delete
from fedfer.aggregator.store import Store
from fedfer.aggregator.update_reader import WeightedFile
from fedfer.aggregator.version_store import Version
from fedfer.export.contract import Contract
from fedfer.model.errors import RefusedError

logger = logging.getLogger("fedfer.aggregator")


@dataclass(frozen=True)
class Comparison:
    """How version `b` differs from `a`: Euclidean distances, and measures of b less those of a (None where
    either was not measured)."""

    a: Version
    b: Version
    weights_distance: float
    statistics_distance: float
    holdout_loss_change: float | None
    holdout_accuracy_change: float | None


class Versions:
    """Methods raise StoreError."""

    def __init__(self, run: str, store: Store, clock: Callable[[], float]) -> None:
        self._run, self._blobs, self._claims, self._clock = run, store.blobs, store.claims, clock
        self._rows = store.versions(run)

    def all(self) -> list[Version]:
        """Oldest first, those whose files were deleted too."""
        return self._rows.all()

    def updates(self) -> dict[int, tuple[str, ...]]:
        """The sha256 of the updates that each version was made of, by its round; none of the initial one."""
        return self._rows.updates()

    def has(self, weights: str) -> bool:
        return self._rows.has(weights)

    def of_weights(self, weights: str) -> Version:
        """The newest version with these weights. Raises RefusedError."""
        return self._pick(lambda version: version.weights == weights, f"weights {weights}")

    def find(self, wanted: str) -> Version:
        """A version that is kept, by tag, sha256, or the number of its round. Raises RefusedError."""

        def fits(version: Version) -> bool:
            named = wanted in (version.weights, *version.tags)
            return version.is_kept and (named or wanted == str(version.round))

        return self._pick(fits, ascii(wanted)[:80])

    def _pick(self, fits: Callable[[Version], bool], words: str) -> Version:
        found = [version for version in self.all() if fits(version)]
        if not found:
            raise RefusedError(
                f"run {self._run} has no version {words}; expected a tag, a sha256 or a round",
                code="unknown_version",
                status=404,
            )
        return found[-1]

    def compare(self, first: str, second: str, contract: Contract) -> Comparison:
        """Raises RefusedError, CheckpointError."""
        a, b = self.find(first), self.find(second)
        before, after = (self._blobs.present(self._blobs.version_path(v.weights)) for v in (a, b))
        (norms,) = delta_norms(before, [WeightedFile(b.weights, 1, "", after)], contract)
        return Comparison(
            a=a,
            b=b,
            weights_distance=norms.weights,
            statistics_distance=norms.statistics,
            holdout_loss_change=_change(a.holdout_loss, b.holdout_loss),
            holdout_accuracy_change=_change(a.holdout_accuracy, b.holdout_accuracy),
        )

    def tag(self, tag: str, wanted: str) -> Version:
        """Names a version; a tag of that name is moved. Raises RefusedError."""
        if re.fullmatch("[0-9]+|[0-9a-f]{64}", tag):
            raise RefusedError(
                f"tag {tag} looks like a round or a sha256; expected a word", code="bad_request"
            )
        self._rows.tag(tag, self.find(wanted).round)
        return self.find(tag)

    def untag(self, tag: str) -> None:
        """Raises RefusedError if there is no such tag."""
        if not self._rows.untag(tag):
            raise RefusedError(
                f"run {self._run} has no tag {ascii(tag)[:80]}", code="unknown_version", status=404
            )

    def drop_old(self, settings: RunSettings, pinned: set[str]) -> None:
        """Deletes the files of versions that the rule does not keep; the rows stay. Who downloads one now
        gets all of it."""
        if settings.retention.keep_last is None:
            return
        kept = [version for version in self.all() if version.is_kept]
        seen = [KeptVersion(v.round, v.weights, bool(v.tags) or v.weights in pinned) for v in kept]
        for weights in to_delete(seen, settings.retention):
            self._rows.drop(weights, self._clock())
            reach("version_dropped")
            states = {v.state for v in kept if v.weights == weights and v.state}
            if self.drop_files(weights, states):
                logger.info("run %s: version %s is not kept any more", self._run, weights)

    def drop_files(self, weights: str, states: Iterable[str]) -> bool:
        """Deletes the files of weights and states that are of no version that a run keeps or is about to
        commit. Whether those of the weights are gone."""
        for state in states:
            self._drop(self._blobs.state_path(state), partial(self._rows.has_state, state))
        return self._drop(self._blobs.version_path(weights), partial(self._rows.is_kept_by_any, weights))

    def _drop(self, place: Path, is_named: Callable[[], bool]) -> bool:
        try:
            return self._claims.drop_unless(is_named, place, self._blobs.drop)
        except OSError:  # it stays, and harms nothing
            return False


def _change(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before
