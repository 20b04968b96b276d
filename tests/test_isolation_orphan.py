"""A process whose caller is gone ends soon, and leaves nothing behind, however the caller went."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

CALL = (
    "import isolation_helpers as h, fedfer.export.isolation as i; i.call_isolated(h.pid_then_sleep, started)"
)
PATIENCE_SEC = 30.0


def wait_for(condition: Callable[[], bool], what: str) -> None:
    give_up_at = time.monotonic() + PATIENCE_SEC
    while not condition():
        assert time.monotonic() < give_up_at, f"{what} did not happen within {PATIENCE_SEC} s"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    """Not so for one that has ended and that nobody has waited for."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_an_orphan_ends_and_cleans_up(number: signal.Signals, tmp_path: Path) -> None:
    started, temporary = tmp_path / "started", tmp_path / "temporary"
    temporary.mkdir()
    program = (
        f"import sys, pathlib; sys.path[:] = {sys.path!r}; started = pathlib.Path({str(started)!r}); {CALL}"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "TMPDIR": str(temporary)},
        stderr=subprocess.DEVNULL,
    ) as caller:
        try:
            wait_for(started.exists, "the call")
            pid = int(started.read_text())
            assert is_running(pid)
            assert any(temporary.iterdir())
        finally:
            caller.send_signal(number)
    try:
        wait_for(lambda: not is_running(pid), "the orphan's end")
        assert not any(temporary.iterdir())
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
