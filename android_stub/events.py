"""What a device tells the person who watches: plain data, sent from its process to the fleet's."""

from dataclasses import dataclass

from fedfer.android_stub.replies import RoundResult
from fedfer.model.errors import FedferError


@dataclass(frozen=True)
class Trained:
    """An update is durable on the server. Loss and accuracy: means over the last local epoch."""

    device: str
    round: int
    num_examples: int
    loss: float
    accuracy: float
    train_sec: float
    update_bytes: int


@dataclass(frozen=True)
class RoundSeen:
    """What became of a round that the device took part in."""

    device: str
    result: RoundResult


@dataclass(frozen=True)
class Note:
    """Something out of the ordinary that the device deals with itself."""

    device: str
    text: str


@dataclass(frozen=True)
class Finished:
    """The device was told to stop; body bytes of all its calls."""

    device: str
    final_weights: str
    received_bytes: int
    sent_bytes: int


@dataclass(frozen=True)
class Failed:
    """The device cannot go on."""

    device: str
    error: FedferError


Event = Trained | RoundSeen | Note | Finished | Failed
