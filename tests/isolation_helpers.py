"""What test_isolation_orphan has done in a process of its own."""

import os
import tempfile
import time
from pathlib import Path


def pid_then_sleep(started: Path) -> None:
    """Says its process id in a file, and works for a long time with a temporary directory."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "large").write_bytes(bytes(1000))
        part = started.with_suffix(".part")
        part.write_text(str(os.getpid()))
        part.rename(started)
        time.sleep(600)
