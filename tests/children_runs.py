"""What test_children has done in a process of its own: children start, and are asked about, until a signal.

As a module to run it is such a child: it sleeps.
"""

import faulthandler
import os
import signal
import sys
import threading
import time
from pathlib import Path

from waiting import PATIENCE_SEC, children_of

SLEEP_SEC, MAX_CHILDREN = 600.0, 200


def start_until_a_signal(log_dir: Path, num_times: int) -> None:
    """Says `started` when it begins to start children, and after the signal what ended it and what is left.

    Stuck, it says where, and ends.
    """
    from fedfer.cli.children import Children

    for _ in range(num_times):
        faulthandler.dump_traceback_later(PATIENCE_SEC, exit=True)
        ended = "nothing"
        children = Children(log_dir)
        try:
            with children:
                print("started", flush=True)
                for _ in range(MAX_CHILDREN):  # should the signal never come
                    child = children.start_module("children_runs")
                    for _ in range(50):
                        child.is_running()
        except (KeyboardInterrupt, SystemExit) as error:
            ended = f"{type(error).__name__}({error})"
        left = children_of(os.getpid())
        print(f"ended by {ended}; {len(left)} left", flush=True)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def hang_up_while_ignoring_it() -> None:
    """As under nohup: the hangup that comes in the block changes nothing."""
    from fedfer.cli.children import Children

    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Children(Path()):
        signal.raise_signal(signal.SIGHUP)
        print("goes on", flush=True)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def interrupt_twice(log_dir: Path) -> None:
    """A second Ctrl-C, and a SIGTERM, while the children take their time to stop after the first."""
    from fedfer.cli.children import Children, wait_for_line

    def again() -> None:
        time.sleep(0.1)
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)

    try:
        with Children(log_dir) as children:
            for _ in range(2):
                wait_for_line(children.start_module("children_runs", "slow to stop"), "deaf", PATIENCE_SEC)
            threading.Thread(target=again).start()
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        print(f"{len(children_of(os.getpid()))} left", flush=True)


def sleep(slow_to_stop: bool) -> None:
    def stop_later(*_: object) -> None:
        time.sleep(0.3)
        sys.exit(0)

    if slow_to_stop:
        signal.signal(signal.SIGTERM, stop_later)
        print("deaf", flush=True)
    time.sleep(SLEEP_SEC)


if __name__ == "__main__":
    sleep(slow_to_stop=len(sys.argv) > 1)
