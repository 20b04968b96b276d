"""The life of a round as pure functions over frozen data: no files, no clock, no network.

    open ──(num_clients updates, or the deadline with min_clients)──> aggregating ──(result)──> done

A device joins and holds a place until its update is accepted. At a deadline with fewer than
`min_clients` updates the round stays open: the deadline is renewed, places of silent devices are freed
for others, accepted updates stay. A device whose place was freed may still upload while the round is
open; the first `num_clients` updates count. Times are seconds since the epoch and come in as `now`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

from fedfer.aggregator.config import RoundSettings
from fedfer.model.errors import RefusedError

Phase = Literal["open", "aggregating", "done"]
WaitReason = Literal["round_full", "already_reported", "aggregating", "paused"]
MAX_EXAMPLES = 1_000_000
RESTART_GRACE_SEC = 60.0


@dataclass(frozen=True)
class Update:
    """A device's accepted update; `sha256` names its checkpoint. loss and accuracy are means over the
    device's last local epoch."""

    device_id: str
    sha256: str
    num_examples: int
    received_bytes: int
    loss: float
    accuracy: float
    train_sec: float | None = None


@dataclass(frozen=True)
class Round:
    """A round and who is in it. `assigned` hold a place, `released` lost theirs at a deadline; `updates`
    maps device id to what it sent, in the order of arrival."""

    number: int
    base_weights: str
    settings: RoundSettings
    opened_at: float
    deadline_at: float
    phase: Phase = "open"
    assigned: frozenset[str] = frozenset()
    released: frozenset[str] = frozenset()
    updates: Mapping[str, Update] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def free_places(self) -> int:
        taken = len(self.updates) + len(self.assigned)
        return max(0, self.settings.num_clients - taken) if self.phase == "open" else 0


def open_round(number: int, base_weights: str, settings: RoundSettings, now: float) -> Round:
    """A round without devices, starting now from `base_weights`."""
    return Round(number, base_weights, settings, now, now + settings.deadline_sec)


def join(round_: Round, device_id: str) -> tuple[Round, WaitReason | None]:
    """The round with the device in it and None, or the same round and why the device has to wait."""
    if round_.phase != "open":
        return round_, "aggregating"
    if device_id in round_.updates:
        return round_, "already_reported"
    if device_id in round_.assigned:
        return round_, None
    if not round_.free_places:
        return round_, "round_full"
    joined = replace(round_, assigned=round_.assigned | {device_id}, released=round_.released - {device_id})
    return joined, None


def check_upload(round_: Round, device_id: str, base_weights: str) -> None:
    """Refuses an upload whose body need not be looked at. A device that has reported passes: its body
    may be a repeat. Raises RefusedError."""
    if device_id in round_.updates:
        return
    if round_.phase != "open":
        raise round_over(round_.number)
    if device_id not in round_.assigned | round_.released:
        raise RefusedError(
            f"device has no place in round {round_.number}; ask for work first",
            code="not_assigned",
            status=409,
        )
    if base_weights != round_.base_weights:
        raise RefusedError(
            f"trained from {base_weights}; round {round_.number} starts from {round_.base_weights}",
            code="wrong_base",
            status=409,
        )


def accept(round_: Round, update: Update, base_weights: str) -> Round:
    """The round with the update in it, closed if it was the last one; the same round for a repeat.

    Raises RefusedError: round_over, not_assigned, wrong_base, already_reported, bad_num_examples.
    """
    check_upload(round_, update.device_id, base_weights)
    earlier = round_.updates.get(update.device_id)
    if earlier is not None:
        check_repeat(earlier, update.sha256, round_.number)
        return round_
    check_num_examples(update.num_examples)
    updates = MappingProxyType({**round_.updates, update.device_id: update})
    return replace(
        round_,
        updates=updates,
        assigned=round_.assigned - {update.device_id},
        released=round_.released - {update.device_id},
        phase="aggregating" if len(updates) >= round_.settings.num_clients else "open",
    )


def check_repeat(earlier: Update, sha256: str, number: int) -> None:
    """Passes for the body that was accepted before. Raises RefusedError for another one."""
    if earlier.sha256 != sha256:
        raise RefusedError(
            f"update {earlier.sha256} of this device was accepted for round {number}; got {sha256}",
            code="already_reported",
            status=409,
        )


def check_num_examples(num_examples: int) -> None:
    """Raises RefusedError unless it is 1 to MAX_EXAMPLES."""
    if not 1 <= num_examples <= MAX_EXAMPLES:
        raise RefusedError(
            f"num_examples is {num_examples}; expected 1 to {MAX_EXAMPLES}", code="bad_num_examples"
        )


def tick(round_: Round, now: float) -> Round:
    """What the deadline makes of the round: closed, renewed with places freed, or as it was."""
    if round_.phase != "open" or now < round_.deadline_at:
        return round_
    if len(round_.updates) >= round_.settings.required_clients:
        return replace(round_, phase="aggregating")
    return replace(
        round_,
        deadline_at=now + round_.settings.deadline_sec,
        assigned=frozenset(),
        released=round_.released | round_.assigned,
    )


def resume(round_: Round, now: float) -> Round:
    """The round after the server was down: devices get a moment to come back before a deadline that
    passed meanwhile counts."""
    grace_sec = min(round_.settings.deadline_sec, RESTART_GRACE_SEC)
    return replace(round_, deadline_at=max(round_.deadline_at, now + grace_sec))


def round_over(number: int) -> RefusedError:
    """What a device gets that comes too late."""
    return RefusedError(f"round {number} has closed; ask for work", code="round_over", status=409)
