"""No child outlives its command, whenever the signal comes that ends it; and nothing waits for ever."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from waiting import PATIENCE_SEC

TESTS = Path(__file__).parent
NUM_TIMES = 20
START_SEC = 0.02  # about what starting a child takes: signals fall before, within and after


def program(call: str) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-c", f"import children_runs as runs; from pathlib import Path; runs.{call}"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )


@pytest.mark.parametrize(
    ("number", "raised"),
    [
        (signal.SIGINT, "KeyboardInterrupt()"),
        (signal.SIGTERM, f"SystemExit({128 + signal.SIGTERM})"),
        (signal.SIGHUP, f"SystemExit({128 + signal.SIGHUP})"),
    ],
)
def test_a_signal_at_any_moment_of_starting_and_asking(
    number: signal.Signals, raised: str, tmp_path: Path
) -> None:
    moments = random.Random(number)
    with program(f"start_until_a_signal(Path({str(tmp_path)!r}), {NUM_TIMES})") as running:
        assert running.stdout is not None
        try:
            for _ in range(NUM_TIMES):
                assert running.stdout.readline() == "started\n"
                time.sleep(moments.uniform(0, 2 * START_SEC))
                running.send_signal(number)
                assert running.stdout.readline() == f"ended by {raised}; 0 left\n"
            assert running.wait(PATIENCE_SEC) == 0
        finally:
            running.kill()


def test_another_signal_does_not_break_off_the_stopping(tmp_path: Path) -> None:
    with program(f"interrupt_twice(Path({str(tmp_path)!r}))") as running:
        output, _ = running.communicate(timeout=PATIENCE_SEC)
    assert (output, running.returncode) == ("0 left\n", 0)


def test_what_was_ignored_stays_so() -> None:
    with program("hang_up_while_ignoring_it()") as running:
        output, _ = running.communicate(timeout=PATIENCE_SEC)
    assert (output, running.returncode) == ("goes on\n", 0)
