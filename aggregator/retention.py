"""Which committed versions are kept, by rule. Pure: the caller deletes.

Always kept: the newest, the best, every tagged one, and those that something still starts from.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fedfer.model.errors import UsageError


@dataclass(frozen=True)
class RetentionSettings:
    """Beside those always kept: the last `keep_last` (None: all, so nothing is ever deleted), and each whose
    round is a multiple of `keep_every`."""

    keep_last: int | None = None
    keep_every: int | None = None

    def __post_init__(self) -> None:
        """Raises UsageError."""
        for name in ("keep_last", "keep_every"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= 1_000_000:
                raise UsageError(f"retention: {name} is {value}; expected 1 to 1000000")


@dataclass(frozen=True)
class KeptVersion:
    """A version as retention sees it. `pinned`: tagged, the best, or still needed as a base."""

    round: int
    weights: str
    pinned: bool = False


def to_delete(versions: Sequence[KeptVersion], settings: RetentionSettings) -> list[str]:
    """Names of versions to delete, oldest first. Equal weights of several rounds are one file: it is kept if
    any of them is."""
    if settings.keep_last is None:
        return []
    ordered = sorted(versions, key=lambda version: version.round)
    last = {version.round for version in ordered[-settings.keep_last :]}
    kept = {v.weights for v in ordered if v.pinned or v.round in last or _is_milestone(v, settings)}
    return list(dict.fromkeys(v.weights for v in ordered if v.weights not in kept))


def _is_milestone(version: KeptVersion, settings: RetentionSettings) -> bool:
    return settings.keep_every is not None and version.round % settings.keep_every == 0
