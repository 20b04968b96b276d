"""The life of a round as pure functions over frozen data: no files, no clock, no network.

    open ──(select)──> open, with places ──(num_clients updates, or the deadline with enough)──>
    aggregating ──(result)──> done

More places are given than updates are needed (`over_selection`), so that nobody waits for the slowest; the
first `num_clients` updates count. When more devices are there than places, the places are kept for a while
for those that `selection` drew; after that whoever asks gets one. A device holds its place until its update
is accepted. At a deadline without enough updates the round stays open: the deadline is renewed, places of
silent devices are freed for others, accepted updates stay, and a device whose place was freed may still
upload.

In an asynchronous run (FedBuff, Nguyen et al. 2022, Algorithm 1) a round is a buffer: whoever asks gets work,
as long as fewer than `max_training` devices have some (the paper's maximum concurrency M), and an update
counts in the buffer that is open when it arrives, whichever round its work was given in, up to
`max_staleness` rounds ago. Who falls silent has work until it is too stale, or until a deadline passes
without enough updates. Times are seconds since the epoch and come in as `now`.
"""

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

from fedfer.aggregator.config import MAX_CLIENTS, RoundSettings
from fedfer.model.errors import RefusedError

Phase = Literal["open", "aggregating", "done"]
WaitReason = Literal[
    "round_full", "not_selected", "too_few_devices", "already_reported", "aggregating", "paused"
]
UpdateKey = tuple[str, int]  # device id, round in which it got the work
MAX_EXAMPLES = 1_000_000
RESTART_GRACE_SEC = 60.0


@dataclass(frozen=True)
class Base:
    """The version that a round starts from: its weights, the round that it came of (0 the initial one), and
    what the strategy wants to be given with it."""

    weights: str
    round: int = 0
    state: str | None = None


@dataclass(frozen=True)
class Place:
    """The work that a device was given: in which round, from which weights."""

    device_id: str
    round: int
    base_weights: str


@dataclass(frozen=True)
class Update:
    """A device's accepted update; `sha256` names its checkpoint. loss and accuracy are means over the
    device's last local epoch. `work_round` is the one in which it got its work."""

    device_id: str
    work_round: int
    sha256: str
    num_examples: int
    received_bytes: int
    loss: float
    accuracy: float
    train_sec: float | None = None

    @property
    def key(self) -> UpdateKey:
        return self.device_id, self.work_round


@dataclass(frozen=True)
class Round:
    """A round and who is in it. `reserved` may take a place that is kept for them, `assigned` hold one,
    `released` lost theirs at a deadline; `updates` are in the order of arrival. `selected_at` is when places
    were given out, None while too few devices are there. `busy`, of a buffer with `max_training`: devices
    that have work of an earlier one, and of which."""

    number: int
    base: Base
    settings: RoundSettings
    opened_at: float
    deadline_at: float
    phase: Phase = "open"
    selected_at: float | None = None
    reserved: frozenset[str] = frozenset()
    assigned: frozenset[str] = frozenset()
    released: frozenset[str] = frozenset()
    updates: Mapping[UpdateKey, Update] = field(default_factory=lambda: MappingProxyType({}))
    busy: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    def free_places(self, now: float) -> int:
        """Places that whoever asks may have."""
        if self.phase != "open" or self.selected_at is None:
            return 0
        if self.settings.is_async:
            most = self.settings.max_training
            return 1 if most is None else max(0, most - len(self.assigned) - len(self.busy))
        kept = len(self.reserved) if self.keeps_places(now) else 0
        taken = len(self.updates) + len(self.assigned) + kept
        return max(0, self.settings.num_places - taken)

    def keeps_places(self, now: float) -> bool:
        """Whether places are still kept for those that were drawn."""
        return self.selected_at is not None and now < self.selected_at + self.settings.selection_sec

    def has_reported(self, device_id: str) -> bool:
        return (device_id, self.number) in self.updates

    def place_of(self, device_id: str) -> Place | None:
        """The work that the device was given in this round, also if its place was freed since."""
        if device_id not in self.assigned | self.released:
            return None
        return Place(device_id, self.number, self.base.weights)


def open_round(
    number: int, base: Base, settings: RoundSettings, now: float, busy: Mapping[str, int] | None = None
) -> Round:
    """A round without devices but those that are `busy`, starting now from `base`."""
    return Round(number, base, settings, now, now + settings.deadline_sec, busy=busy or {})


def busy_devices(places: Iterable[tuple[str, int]], reported: Container[UpdateKey]) -> dict[str, int]:
    """Who has work of a round that is over, by the round: its newest (device, round), if nothing was sent."""
    newest: dict[str, int] = {}
    for device_id, number in places:
        newest[device_id] = max(number, newest.get(device_id, 0))
    return {device_id: number for device_id, number in newest.items() if (device_id, number) not in reported}


def select(round_: Round, ranked: Sequence[str], now: float) -> Round:
    """Gives out the places once enough devices are there: `ranked` are the active ones, those to choose
    first. The same round if it has been done or if too few are there."""
    settings = round_.settings
    if round_.phase != "open" or round_.selected_at is not None or len(ranked) < settings.min_devices:
        return round_
    if settings.fraction is not None:
        count = max(math.ceil(settings.fraction * len(ranked)), settings.min_updates)
        count = min(count, MAX_CLIENTS)
        least = None if settings.min_clients is None else min(settings.min_clients, count)
        settings = replace(settings, num_clients=count, min_clients=least, fraction=None)
    drawn = ranked[: settings.num_places] if len(ranked) > settings.num_places else ()
    return replace(
        round_,
        settings=settings,
        selected_at=now,
        reserved=frozenset(() if settings.is_async else drawn),
        deadline_at=now + settings.deadline_sec,
    )


def join(round_: Round, device_id: str, now: float) -> tuple[Round, WaitReason | None]:
    """The round with the device in it and None, or the same round and why the device has to wait."""
    if round_.phase != "open":
        return round_, "aggregating"
    if round_.selected_at is None:
        return round_, "too_few_devices"
    if round_.has_reported(device_id):
        return round_, "already_reported"
    if device_id in round_.assigned:
        return round_, None
    is_kept = device_id in round_.busy or (device_id in round_.reserved and round_.keeps_places(now))
    if not is_kept and not round_.free_places(now):
        return round_, "not_selected" if round_.keeps_places(now) and round_.reserved else "round_full"
    return replace(
        round_,
        assigned=round_.assigned | {device_id},
        reserved=round_.reserved - {device_id},
        released=round_.released - {device_id},
        busy=_without(round_.busy, device_id, round_.busy.get(device_id, 0)),
    ), None


def _without(busy: Mapping[str, int], device_id: str, number: int) -> Mapping[str, int]:
    """`busy` less the device, if it is that round's work it has."""
    return {id_: of for id_, of in busy.items() if (id_, of) != (device_id, number)} if busy else busy


def check_upload(round_: Round, place: Place | None, base_weights: str) -> Place:
    """The work that an upload answers, checked before its body is looked at. `place` is what the device was
    given, None if nothing. Raises RefusedError."""
    if round_.phase != "open":
        raise round_over(round_.number)
    if place is None:
        raise RefusedError(
            f"device has no place in round {round_.number}; ask for work first",
            code="not_assigned",
            status=409,
        )
    if base_weights != place.base_weights:
        raise RefusedError(
            f"trained from {base_weights}; round {place.round} starts from {place.base_weights}",
            code="wrong_base",
            status=409,
        )
    _check_staleness(round_, place)
    return place


def _check_staleness(round_: Round, place: Place) -> None:
    staleness = round_.number - place.round
    if staleness and not round_.settings.is_async:
        raise round_over(place.round)
    if staleness > round_.settings.max_staleness:
        raise RefusedError(
            f"trained from what round {place.round} started from, {staleness} rounds ago; at most "
            f"{round_.settings.max_staleness} are taken: ask for work",
            code="too_stale",
            status=409,
        )


def accept(round_: Round, place: Place | None, update: Update, base_weights: str) -> Round:
    """The round with the update in it, closed if it was the last one; the same round for a repeat.

    Raises RefusedError: round_over, not_assigned, wrong_base, too_stale, already_reported, bad_num_examples.
    """
    earlier = round_.updates.get(update.key)
    if earlier is not None:
        check_repeat(earlier, update.sha256)
        return round_
    check_upload(round_, place, base_weights)
    check_num_examples(update.num_examples)
    updates = MappingProxyType({**round_.updates, update.key: update})
    gone = {update.device_id} if update.work_round == round_.number else set()
    return replace(
        round_,
        updates=updates,
        assigned=round_.assigned - gone,
        released=round_.released - gone,
        busy=_without(round_.busy, update.device_id, update.work_round),
        phase="aggregating" if len(updates) >= round_.settings.num_clients else "open",
    )


def check_repeat(earlier: Update, sha256: str) -> None:
    """Passes for the body that was accepted before. Raises RefusedError for another one."""
    if earlier.sha256 != sha256:
        raise RefusedError(
            f"update {earlier.sha256} of this device was accepted for round {earlier.work_round}; "
            f"got {sha256}",
            code="already_reported",
            status=409,
        )


def check_num_examples(num_examples: int) -> None:
    """Raises RefusedError unless it is 1 to MAX_EXAMPLES."""
    if not 1 <= num_examples <= MAX_EXAMPLES:
        raise RefusedError(
            f"num_examples is {num_examples}; expected 1 to {MAX_EXAMPLES}", code="bad_num_examples"
        )


def required_updates(round_: Round, num_active: int) -> int:
    """Updates that suffice at the deadline. Without `min_clients`: half of those wanted, or of the devices
    that are there if they are fewer, so that a round never waits for devices that do not exist."""
    settings = round_.settings
    if settings.min_clients is not None:
        return min(settings.min_clients, settings.num_clients)
    return max(1, math.ceil(min(settings.num_clients, num_active) / 2), settings.min_updates)


def waits_for(round_: Round, num_active: int) -> str:
    """In words, what a round waits for while so many devices are there."""
    settings = round_.settings
    if round_.phase == "aggregating":
        return "averaging and evaluating"
    if round_.selected_at is None:
        return f"devices: {num_active} are here, {settings.min_devices} are needed to begin"
    return (
        f"updates: {len(round_.updates)} of {settings.num_clients} are in, "
        f"{required_updates(round_, num_active)} suffice at the deadline; {num_active} devices are here"
    )


def tick(round_: Round, now: float, num_active: int) -> Round:
    """What the deadline makes of the round: closed, renewed with places freed, or as it was."""
    if round_.phase != "open" or round_.selected_at is None or now < round_.deadline_at:
        return round_
    if len(round_.updates) >= required_updates(round_, num_active):
        return replace(round_, phase="aggregating")
    return replace(
        round_,
        deadline_at=now + round_.settings.deadline_sec,
        reserved=frozenset(),
        assigned=frozenset(),
        released=round_.released | round_.assigned,
        busy={},
    )


def resume(round_: Round, now: float) -> Round:
    """The round after the server was down: devices get a moment to come back before a deadline that
    passed meanwhile counts."""
    grace_sec = min(round_.settings.deadline_sec, RESTART_GRACE_SEC)
    return replace(round_, deadline_at=max(round_.deadline_at, now + grace_sec))


def round_over(number: int) -> RefusedError:
    """What a device gets that comes too late."""
    return RefusedError(
        f"round {number} has closed: as many updates as it needed were there first; ask for work",
        code="round_over",
        status=409,
    )


def unknown_round(number: int, newest: int) -> RefusedError:
    """What a question about a round that is not there gets."""
    return RefusedError(f"no round {number}; the newest is {newest}", code="unknown_round", status=404)
