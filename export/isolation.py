"""Calling a function in a fresh process of its own.

The interpreter and TensorFlow cannot share a process, a crash in native code must not take a service
down, and memory taken by one evaluation has to go back to the system. Unlike multiprocessing's spawn, the new
process does not import the caller's main module (which may import TensorFlow).

The call goes to the child's stdin, the outcome comes from its stdout, both pickled: what travels between the
two processes is this program's own, never anything that came over a network. Nothing lies on disk. The caller
keeps the child's stdin open while it waits, so that its end tells the child that the caller is gone, however
it went. What the function prints goes to a nameless file, of which the last line is told when the child dies.
"""

import io
import os
import pickle
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import IO, Any, ParamSpec, TypeVar

from fedfer.model.errors import InterpreterError

P = ParamSpec("P")
R = TypeVar("R")
ORPHAN_GRACE_SEC = 2.0  # for what an orphan has to clean away
TAIL_BYTES = 4096
_LENGTH = struct.Struct("<Q")


def call_isolated(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """`function(*args, **kwargs)` in a new process; what it raises is raised here.

    The function must be importable by name. A process that dies raises InterpreterError; if the calling
    process ends first, the new one ends too.
    """
    with _begun(function, args, kwargs) as outcome:
        return outcome()


def call_isolated_each(function: Callable[..., R], calls: Sequence[tuple[Any, ...]]) -> list[R]:
    """The function with each of these arguments, at once, each in a process of its own; what the first that
    fails raises is raised here, and the others are ended."""
    with ExitStack() as stack:
        outcomes = [stack.enter_context(_begun(function, args, {})) for args in calls]
        return [outcome() for outcome in outcomes]


@contextmanager
def _begun(
    function: Callable[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Iterator[Callable[[], R]]:
    """The call under way, ended at the end; what is given waits for what comes of it."""
    command = [sys.executable, "-m", "fedfer.export.isolation"]
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log) as child,
    ):
        try:
            _send(child, pickle.dumps(sys.path) + pickle.dumps((function, args, kwargs)))
            yield lambda: _outcome(child, log, function)
        finally:
            _close(child.stdin)  # if it still runs, this ends it


def _send(child: subprocess.Popen[bytes], call: bytes) -> None:
    assert child.stdin is not None
    with suppress(BrokenPipeError):  # it died; its exit code and last words say more
        child.stdin.write(_LENGTH.pack(len(call)) + call)
        child.stdin.flush()


def _outcome(child: subprocess.Popen[bytes], log: IO[bytes], function: Callable[..., R]) -> R:
    """What the call gave, or raised."""
    assert child.stdout is not None
    outcome = _unframed(child.stdout)
    child.wait()
    if outcome is None:
        died = f"the process that ran {function.__name__} died with exit code {child.returncode}"
        raise InterpreterError(f"{died} {_last_line(log)}")
    value, error = pickle.loads(outcome)  # noqa: S301 (written by our own child)
    if error is not None:
        raise error
    result: R = value
    return result


def _unframed(stream: IO[bytes]) -> bytes | None:
    """One message with its length before it; None if the stream ends first."""
    length = stream.read(_LENGTH.size)
    if len(length) < _LENGTH.size:
        return None
    (num_bytes,) = _LENGTH.unpack(length)
    message = stream.read(num_bytes)
    return message if len(message) == num_bytes else None


def _close(stream: IO[bytes] | None) -> None:
    assert stream is not None
    with suppress(BrokenPipeError):  # what a dead child did not read is still in the buffer
        stream.close()


def _last_line(log: IO[bytes]) -> list[str]:
    log.seek(max(0, log.seek(0, io.SEEK_END) - TAIL_BYTES))
    return log.read().decode(errors="replace").strip().splitlines()[-1:]


def _serve_one_call() -> None:
    """The child: takes the call from stdin, runs it, writes the outcome to what was stdout."""
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # prints, native code's too, must not mix with the outcome
    call = _unframed(sys.stdin.buffer)
    if call is None:
        return
    threading.Thread(target=_end_with_caller, daemon=True).start()
    parts = io.BytesIO(call)
    sys.path[:] = pickle.load(parts)  # noqa: S301 (written by our own parent)
    function, args, kwargs = pickle.load(parts)  # noqa: S301
    outcome: tuple[object, Exception | None]
    try:
        outcome = (function(*args, **kwargs), None)
    except Exception as error:
        outcome = (None, error)
    message = pickle.dumps(outcome)
    with results:
        results.write(_LENGTH.pack(len(message)) + message)


def _end_with_caller() -> None:
    """Waits for the end of stdin: the caller holds its other end as long as it lives and waits."""
    os.read(0, 1)
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGINT)  # KeyboardInterrupt: what it works with is cleaned away
    time.sleep(ORPHAN_GRACE_SEC)
    os._exit(1)


if __name__ == "__main__":
    _serve_one_call()
