"""Processes of their own for interpreters: spawned, deaf to Ctrl-C, gone with their parent."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing import parent_process, resource_tracker
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from typing import Any


def start_process(target: Callable[..., None], *args: Any, duplex: bool) -> tuple[SpawnProcess, Pipe]:
    """Runs `target(*args, pipe)`; returns the process and the other end of the pipe."""
    spawn = multiprocessing.get_context("spawn")  # a forked interpreter or HTTP client may hang
    ours, theirs = spawn.Pipe(duplex=duplex)
    process = spawn.Process(target=target, args=(*args, theirs), daemon=True)
    resource_tracker.ensure_running()  # started by the first process otherwise, and it lifts the mask below
    # Ctrl-C reaches the whole process group, but only this process acts on it and then stops the others:
    # they inherit the mask. What comes meanwhile is delivered when the mask is lifted.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    theirs.close()  # or the end of the process would not be seen as the end of what it sends
    return process, ours


def stop_process(process: SpawnProcess, patience_sec: float) -> None:
    """SIGTERM was sent, or the pipe closed: waits, then SIGKILL."""
    process.join(patience_sec)
    if process.is_alive():
        process.kill()
        process.join()


def exit_with_parent() -> None:
    """From now on this process ends when the one that started it does, however that ends."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
