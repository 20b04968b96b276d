"""Waiting for what another process or thread does, with a patience that a busy machine does not exhaust."""

import time
from collections.abc import Callable
from pathlib import Path

PATIENCE_SEC = (
    120.0  # how long a test waits before it says that something does not happen: never what it measures
)
STEP_SEC = 0.02


def wait_for(condition: Callable[[], bool], what: str = "what was waited for") -> None:
    """Returns once it holds."""
    give_up_at = time.monotonic() + PATIENCE_SEC
    while not condition():
        assert time.monotonic() < give_up_at, f"{what} did not happen within {PATIENCE_SEC:g} s"
        time.sleep(STEP_SEC)


def children_of(pid: int) -> list[int]:
    """Process ids of what a process has started and not yet reaped (Linux)."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    """Not so for one that has ended and that nobody has waited for (Linux)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
