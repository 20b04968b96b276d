"""A process whose caller is gone ends soon, and leaves nothing behind, however the caller went."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from waiting import is_running, wait_for

CALL = (
    "import isolation_helpers as h, fedfer.export.isolation as i; i.call_isolated(h.pid_then_sleep, started)"
)


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
