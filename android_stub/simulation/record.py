"""The record of a simulation: what happened, as plain data that JSON can hold (docs/simulation.md)."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from fedfer.android_stub.fields import Fields
from fedfer.android_stub.simulation.phone import Phone

FORMAT = "fedfer.simulation/1"


class Recorder:
    """Gathers rounds, refusals and faults; `max_checkpoint_bytes` of the model, `clock` for real time."""

    def __init__(self, max_checkpoint_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.max_checkpoint_bytes = max_checkpoint_bytes
        self._clock, self._closed_at = clock, clock()
        self.rounds: list[dict[str, Any]] = []
        self.refusals: Counter[str] = Counter()
        self.faults: list[dict[str, Any]] = []
        self._down = self._up = 0
        self._closed_sec = 0.0

    @property
    def next_round(self) -> int:
        """The number of the round that is recorded next."""
        return len(self.rounds)

    @property
    def accuracy(self) -> float | None:
        """Of the last round on the holdout set."""
        return self.rounds[-1]["accuracy"] if self.rounds else None

    def has_reached(self, target: float | None) -> bool:
        return target is not None and self.accuracy is not None and self.accuracy >= target

    def downloaded(self, num_bytes: int) -> None:
        self._down += num_bytes

    def uploaded(self, num_bytes: int) -> None:
        self._up += num_bytes

    def refused(self, code: str) -> None:
        self.refusals[code] += 1

    def fault(self, at_sec: float, device: str | None, kind: str, text: str) -> None:
        self.faults.append({"at_sec": at_sec, "device": device, "kind": kind, "text": text})

    def round(self, done: Fields, now_sec: float) -> None:
        """Takes a round down that has closed, from the server's account of it (docs/protocol.md)."""
        updates = [
            {
                "device": update.word("device_name"),
                "num_examples": update.integer("num_examples", 1, 10**9),
                "loss": update.number("loss", -1e30, 1e30),
                "accuracy": update.number("accuracy", 0.0, 1e30),
                "train_sec": update.optional_number("train_sec", 0.0, 1e12),
                "code": update.optional_text("code"),
            }
            for update in done.objects("updates")
        ]
        updates.sort(key=lambda update: (len(str(update["device"])), update["device"]))
        self.refusals.update(str(update["code"]) for update in updates if update["code"] is not None)
        began_at, self._closed_at = self._closed_at, self._clock()
        self.rounds.append(
            {
                "round": done.integer("round", 0, 10**9),
                "opened_sec": self._closed_sec,
                "closed_sec": now_sec,
                "wall_sec": round(self._closed_at - began_at, 3),
                "outcome": done.optional_text("outcome"),
                "reason": done.optional_text("reason"),
                "weights": done.optional_digest("result_weights"),
                "loss": done.optional_number("holdout_loss", 0.0, 1e30),
                "accuracy": done.optional_number("holdout_accuracy", 0.0, 1e30),
                "train_loss": done.optional_number("train_loss", -1e30, 1e30),
                "train_accuracy": done.optional_number("train_accuracy", 0.0, 1e30),
                "bytes_up": self._up,
                "bytes_down": self._down,
                "updates": updates,
            }
        )
        self._closed_sec, self._up, self._down = now_sec, 0, 0

    def state(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "rounds": self.rounds,
            "refusals": dict(self.refusals),
            "faults": self.faults,
            "traffic": [self._down, self._up],
            "closed_sec": self._closed_sec,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        self.rounds, self.faults = list(state["rounds"]), list(state["faults"])
        self.refusals = Counter(state["refusals"])
        self._down, self._up = state["traffic"]
        self._closed_sec = state["closed_sec"]


def target_of(rounds: list[dict[str, Any]], accuracy: float | None) -> dict[str, Any] | None:
    """When the holdout accuracy was first reached, and what had been sent by then; None if never."""
    num_bytes = 0
    for done in rounds:
        num_bytes += done["bytes_up"] + done["bytes_down"]
        if accuracy is not None and done["accuracy"] is not None and done["accuracy"] >= accuracy:
            return {
                "accuracy": accuracy,
                "round": done["round"],
                "virtual_sec": done["closed_sec"],
                "bytes": num_bytes,
            }
    return None


def device_record(phone: Phone, label_counts: list[int], attack: str | None) -> dict[str, Any]:
    """One device of the record."""
    return {
        "name": phone.name,
        "index": phone.index,
        "num_examples": phone.num_examples,
        "label_counts": label_counts,
        "profile": phone.profile.as_json(),
        "attack": attack,
        **vars(phone.counters),
    }
