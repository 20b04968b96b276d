"""A device's client over real sockets, whose pauses are recorded instead of slept."""

from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import httpx

from fedfer.android_stub.backoff import RetryPolicy
from fedfer.android_stub.cache import Cache
from fedfer.android_stub.client import AggregatorClient
from fedfer.android_stub.connection import Connection, Retrying, open_http


@dataclass
class PausedClient:
    """`pauses` are those that the client took, in seconds; they move its clock and nothing else."""

    client: AggregatorClient
    http: httpx.Client
    pauses: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def paused_client(
    url: str, directory: Path, *, give_up_sec: float = 60.0, read_timeout_sec: float = 60.0
) -> PausedClient:
    http = open_http(url, read_timeout_sec=read_timeout_sec)
    pauses: list[float] = []
    notes: list[str] = []
    retrying = Retrying(
        policy=RetryPolicy(give_up_sec=give_up_sec),
        rng=Random(0),
        clock=lambda: sum(pauses),
        sleep=pauses.append,
        on_pause=notes.append,
    )
    client = AggregatorClient(Connection(http, retrying), Cache(directory))
    return PausedClient(client, http, pauses, notes)
