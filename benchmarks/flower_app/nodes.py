"""Many clients of Flower's in one process, so that 64 of them fit into memory. Runs in Flower's environment.

    python nodes.py HOST:PORT NUMBER_OF_CLIENTS

A `flower-supernode` and what it starts are three processes of 0.5 GB together. Here a client is a thread with
a connection, a node id and heartbeats of its own, which speaks to the SuperLink with the functions that
`flower-supernode` calls (flwr.client.grpc_rere_client, flwr.supercore.inflatable: Fleet API over gRPC,
objects pulled and pushed one by one), and the client app of this folder is called in that thread. So a client
saves its second and third process and the HTTP between them, and it asks for work twice a second instead of
every 3 s. The server is no other.
"""

import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.client.grpc_rere_client.connection import grpc_request_response
from flwr.common.config import get_fused_config_from_fab
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import pull_and_inflate_object_from_tree, push_objects
from flwr.supercore.retry import make_simple_grpc_retry_invoker
from ready_made.client_app import app

PAUSE_SEC = 0.5


def live(address: str) -> None:
    """One client, until the process is ended."""
    with grpc_request_response(address, True, make_simple_grpc_retry_invoker()) as node:
        node_id, receive, send, get_run, get_fab, pull, push, confirm = node
        contexts: dict[int, Context] = {}
        while True:
            if (received := receive()) is None:
                time.sleep(PAUSE_SEC)
                continue
            header, tree = received
            run_id = header.metadata.run_id
            if run_id not in contexts:
                contexts[run_id] = context_of(node_id, get_run(run_id), get_fab)
            pulled = partial(pull, run_id), partial(confirm, run_id)
            message = pull_and_inflate_object_from_tree(tree, *pulled, return_type=Message)
            message.metadata.__dict__["_message_id"] = tree.object_id  # as flwr's run_clientapp does
            started = time.monotonic()
            reply = app(message, contexts[run_id])
            answer(reply, time.monotonic() - started, send, partial(push, run_id))


def context_of(node_id: int, run: Any, get_fab: Callable[[str, int], Any]) -> Context:
    """What the client app is told: the run's settings."""
    config = get_fused_config_from_fab(get_fab(run.fab_hash, run.run_id).content, run)
    return Context(run.run_id, node_id, {}, RecordDict(), config, run.series_id)


def answer(reply: Message, seconds: float, send: Callable[..., Any], push: Callable[..., Any]) -> None:
    """Sends the reply's head and then those of its objects that the SuperLink asks for."""
    reply.metadata.__dict__["_message_id"] = reply.object_id
    with no_object_id_recompute():
        wanted, session = send(reply, get_object_tree(reply), seconds)
        push_objects(get_all_nested_objects(reply), partial(push, session), object_ids_to_push=wanted)


def main(address: str, num_clients: int) -> None:
    with ThreadPoolExecutor(num_clients) as pool:
        for done in [pool.submit(live, address) for _ in range(num_clients)]:
            done.result()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
