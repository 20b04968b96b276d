"""Flower's own FedAvg, with a note of when a round begins, when replies are in, when they are averaged."""

import os
from typing import Any

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from ready_made.weights import arrays, note

app = ServerApp()


class NotedFedAvg(FedAvg):  # type: ignore[misc]  # flwr lives in an environment of its own
    log = ""

    def configure_train(self, server_round: int, *args: Any, **kwargs: Any) -> Any:
        note(self.log, event="begun", round=server_round)
        return super().configure_train(server_round, *args, **kwargs)

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        received = list(replies)
        replies = sum(message.has_content() for message in received)  # the others are errors
        note(self.log, event="received", round=server_round, replies=replies)
        result = super().aggregate_train(server_round, received)
        note(self.log, event="averaged", round=server_round)
        return result


@app.main()  # type: ignore[untyped-decorator]
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    count = int(config["num-clients"])
    strategy = NotedFedAvg(
        fraction_train=1.0,
        fraction_evaluate=0.0,
        min_train_nodes=count,
        min_available_nodes=count,
        min_evaluate_nodes=0,
    )
    strategy.log = str(config["log"])
    note(strategy.log, event="server", pid=os.getpid())
    start = ArrayRecord(arrays(str(config["shapes"]), 0))
    strategy.start(grid=grid, initial_arrays=start, num_rounds=int(config["num-rounds"]))
    note(strategy.log, event="done")
