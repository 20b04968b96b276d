"""A process that has imported what takes long, and forks for every call; tests/prepared.py starts it.

From the socket given to it come requests, each with four file descriptors: stdin, stdout and stderr of the
new process, and a pipe that is told its process id and, when it has ended, its exit code. The end of the
socket ends this process. What it forks runs as if it had been started: with its own arguments, environment,
folder and signal handlers, and with all that comes at the end of an interpreter.
"""

import gc
import os
import pickle
import select
import signal
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path

LENGTH, NUMBER = struct.Struct("<Q"), struct.Struct("<i")
NUM_DESCRIPTORS = 4


@dataclass(frozen=True)
class Request:
    """`fedfer` with these arguments; or a function, importable by name, whose outcome goes to a file."""

    arguments: tuple[str, ...] = ()
    call: bytes = b""  # pickled: function, args, kwargs
    outcome: Path = field(default_factory=Path)
    paths: tuple[str, ...] = ()  # where the call's module is looked for
    folder: Path = field(default_factory=Path.cwd)
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    new_session: bool = False


def sent(request: Request) -> bytes:
    body = pickle.dumps(request)
    return LENGTH.pack(len(body)) + body


def next_request(source: socket.socket) -> tuple[Request, list[int]] | None:
    """None at the end of the socket."""
    head, descriptors, _, _ = socket.recv_fds(source, LENGTH.size, NUM_DESCRIPTORS)
    if not head:
        return None
    with source.makefile("rb") as rest:
        head += rest.read(LENGTH.size - len(head))
        request: Request = pickle.loads(rest.read(*LENGTH.unpack(head)))  # noqa: S301 - from the tests themselves
    return request, descriptors


def serve(source: socket.socket) -> Request:
    """Returns in each process that it forks."""
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    told: dict[int, int] = {}  # the pipe of each process
    sources: list[socket.socket | int] = [source, woken]
    while True:
        ready, _, _ = select.select(sources, [], [])
        if woken in ready:
            os.read(woken, 4096)
            _tell_ends(told)
        if source in ready:
            received = next_request(source)
            if received is None:
                os._exit(0)
            request, descriptors = received
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                source.close()
                _become(request, descriptors, [woken, wake, *told.values()])
                return request
            told[pid] = descriptors[-1]
            os.write(told[pid], NUMBER.pack(pid))
            for descriptor in descriptors[:-1]:
                os.close(descriptor)


def _tell_ends(told: dict[int, int]) -> None:
    while told:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        pipe = told.pop(pid)
        try:
            os.write(pipe, NUMBER.pack(os.waitstatus_to_exitcode(status)))
        except BrokenPipeError:  # nobody asks any more
            pass
        finally:
            os.close(pipe)


def _become(request: Request, descriptors: list[int], strange: list[int]) -> None:
    """The fresh process as `exec` would have it."""
    if request.new_session:
        os.setsid()
    for target, descriptor in enumerate(descriptors[:3]):
        os.dup2(descriptor, target)
    for descriptor in [*descriptors, *strange]:
        os.close(descriptor)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(request.environment)
    if "fedfer.aggregator.faults" in sys.modules:  # it has read the environment when it was imported
        faults = sys.modules["fedfer.aggregator.faults"]
        faults.arm(os.environ.get(faults.VARIABLE))
    os.chdir(request.folder)
    time.tzset()
    tempfile.tempdir = None
    unbuffered = bool(request.environment.get("PYTHONUNBUFFERED"))
    sys.stdin = os.fdopen(0)
    sys.stdout = os.fdopen(1, "w")
    sys.stdout.reconfigure(write_through=unbuffered)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace")


def run(request: Request) -> int:
    """What the process is for; its exit code."""
    if request.call:
        sys.path[:] = request.paths
        function, args, kwargs = pickle.loads(request.call)  # noqa: S301 - from the tests themselves
        request.outcome.write_bytes(pickle.dumps(_outcome(partial(function, *args, **kwargs))))
        return 0
    sys.path.insert(0, str(request.folder))  # as `python -m` has it
    sys.argv = ["fedfer", *request.arguments]
    code: int = import_module("fedfer.cli.main").main(request.arguments)
    return code


def _outcome(call: Callable[[], object]) -> tuple[object, Exception | None]:
    try:
        return call(), None
    except Exception as error:
        return None, error


def main(descriptor: int, modules: list[str]) -> int:
    for module in modules:
        import_module(module)
    gc.freeze()  # or every collection in a process would copy what it shares with this one
    return run(serve(socket.socket(fileno=descriptor)))
