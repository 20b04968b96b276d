"""One simulated phone: what it holds, where it is in its task, what it did and what that cost. Plain data."""

from dataclasses import dataclass, field
from typing import Any

from fedfer.android_stub.replies import Train
from fedfer.android_stub.simulation.profiles import Profile


@dataclass
class Assignment:
    """A task under way: trained and uploaded by `upload_at_sec` of virtual time, unless the device drops out
    at that moment. Its upload begins at `sends_from_sec`. `train_sec` is virtual."""

    work: Train
    upload_at_sec: float
    sends_from_sec: float
    train_sec: float
    drops_out: bool = False


@dataclass
class Counters:
    """What a device did; bytes are those of its bodies, `busy_sec` virtual time on tasks."""

    num_tasks: int = 0
    num_accepted: int = 0
    num_rejected: int = 0
    num_dropped: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0
    busy_sec: float = 0.0


@dataclass
class Phone:
    """`model` and `weights`: sha256 of what it has fetched last; `refused_round`: the last in which its
    update was refused."""

    index: int
    name: str
    num_examples: int
    profile: Profile
    token: str | None = None
    model: str | None = None
    weights: str | None = None
    refused_round: int | None = None
    assignment: Assignment | None = None
    counters: Counters = field(default_factory=Counters)

    def state(self) -> dict[str, Any]:
        """What of it changes, as JSON can hold it."""
        task = self.assignment
        return {
            "token": self.token,
            "model": self.model,
            "weights": self.weights,
            "refused_round": self.refused_round,
            "assignment": None if task is None else {**vars(task), "work": vars(task.work)},
            "counters": vars(self.counters),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.token, self.model, self.weights = state["token"], state["model"], state["weights"]
        self.refused_round = state["refused_round"]
        task = state["assignment"]
        self.assignment = None if task is None else Assignment(**{**task, "work": Train(**task["work"])})
        self.counters = Counters(**state["counters"])
