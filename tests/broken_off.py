"""A simulation for `call_isolated` that is killed at a moment of its own choosing."""

import os
import signal
from collections.abc import Callable
from typing import Any
from unittest.mock import patch


def simulate_until_kept(arguments: list[str], num_rounds: int) -> None:
    """`fedfer simulate ARGUMENTS` with a snapshot after every round; killed as it has that of round
    `num_rounds`."""
    from fedfer.android_stub.simulation import journal
    from fedfer.cli.main import main

    keep = journal.Journal.keep

    def keep_and_die(self: journal.Journal, state: Callable[[], dict[str, Any]]) -> None:
        keep(self, state)
        if len(state()["simulation"]["recorder"]["rounds"]) == 1 + num_rounds:
            os.kill(os.getpid(), signal.SIGKILL)

    with patch.object(journal, "EVERY_SEC", 0.0), patch.object(journal.Journal, "keep", keep_and_die):
        main(["simulate", *arguments])
