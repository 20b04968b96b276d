"""What tests have done in processes of their own; each function is for `call_isolated`."""

import os
import sys
import tempfile
import time
from pathlib import Path


def doubled(data: bytes) -> bytes:
    return data + data


def chatty(number: int) -> int:
    """Prints in every way there is: Python's streams, and the descriptors that native code writes to."""
    print("printed by Python")
    print("warned by Python", file=sys.stderr)
    os.write(1, b"printed by native code\n")
    os.write(2, b"warned by native code\n")
    return number + 1


def divide(number: int) -> float:
    return number / 0


def die(last_words: str) -> None:
    print(last_words, file=sys.stderr, flush=True)
    os._exit(7)


def pid_then_sleep(started: Path) -> None:
    """Says its process id in a file, and works for a long time with a temporary directory."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "large").write_bytes(bytes(1000))
        part = started.with_suffix(".part")
        part.write_text(str(os.getpid()))
        part.rename(started)
        time.sleep(600)
