"""Processes with their imports done: forked from one that has done them once, and otherwise their own.

TensorFlow takes seconds to import and an aggregator's packages one or two; hundreds of tests begin a process
with them. Here it begins in milliseconds. With FEDFER_TEST_COMMANDS=started, as `make test-all` has it, each
is started anew instead, as a person does; the fast tests do so where starting is what they are about.
"""

import atexit
import functools
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import IO, ParamSpec, Protocol, TypeVar

from fork_server import NUMBER, Request, sent
from waiting import PATIENCE_SEC

from fedfer.export import isolation
from fedfer.model.errors import InterpreterError

P = ParamSpec("P")
R = TypeVar("R")
VARIABLE = "FEDFER_TEST_COMMANDS"
COMMAND = [sys.executable, "-m", "fedfer.cli.main"]
RUN_SEC = 2 * PATIENCE_SEC


@dataclass(frozen=True)
class Kind:
    """What is imported, with this in the environment."""

    modules: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = (("TF_CPP_MIN_LOG_LEVEL", "2"),)


LIGHT = Kind(
    (
        "fedfer.cli.main",
        "fedfer.cli.serve",
        "fedfer.cli.simulated_runs",
        "fedfer.aggregator.app",
        "fedfer.aggregator.http_server",
        "fedfer.android_stub.fleet",
        "fedfer.model.sources",
        "uvicorn.lifespan.on",
        "uvicorn.loops.asyncio",
    )
)
TENSORFLOW = Kind(("fedfer.cli.main", "fedfer.export.tflite", "fedfer.export.verify", "fedfer.model.vgg"))
EXPORT = replace(TENSORFLOW, environment=(*TENSORFLOW.environment, ("TF_ENABLE_ONEDNN_OPTS", "0")))
KINDS = {"export": EXPORT, "train": TENSORFLOW, "inference": TENSORFLOW}  # of commands; else LIGHT


class Running(Protocol):
    """What tests use of a `subprocess.Popen[str]`."""

    @property
    def pid(self) -> int: ...
    @property
    def stdout(self) -> IO[str] | None: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...
    def __enter__(self) -> "Running": ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def is_started_anew() -> bool:
    return os.environ.get(VARIABLE) == "started"


def start(
    command: Sequence[str],
    *,
    stdout: IO[str] | int,
    stderr: IO[str] | int,
    env: Mapping[str, str] | None = None,
    start_new_session: bool = False,
) -> Running:
    """As `subprocess.Popen` of a `fedfer` command, with text; stdout may be `subprocess.PIPE`."""
    if is_started_anew():
        return subprocess.Popen(
            command, stdout=stdout, stderr=stderr, text=True, env=env, start_new_session=start_new_session
        )
    environment = dict(os.environ if env is None else env)
    request = Request(_arguments(command), environment=environment, new_session=start_new_session)
    return Forked(_fork_server(_kind(command)), request, stdout, stderr)


def run(
    command: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run` of a `fedfer` command, with its output as text, whatever its exit code."""
    if is_started_anew():
        return subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=cwd, env=env, timeout=RUN_SEC
        )
    environment = dict(os.environ if env is None else env)
    request = Request(_arguments(command), folder=cwd or Path.cwd(), environment=environment)
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        with Forked(_fork_server(_kind(command)), request, out, err) as running:
            try:
                code = running.wait(RUN_SEC)
            finally:
                running.kill()
        return subprocess.CompletedProcess(command, code, _read(out), _read(err))


def call_isolated(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """As that of `fedfer.export.isolation`."""
    return _call(LIGHT, function, *args, **kwargs)


def in_tensorflow(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """The same, for a function that uses TensorFlow."""
    return _call(TENSORFLOW, function, *args, **kwargs)


def _call(kind: Kind, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    if is_started_anew():
        return isolation.call_isolated(function, *args, **kwargs)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as log:
        outcome = Path(folder, "outcome")
        call = pickle.dumps((function, args, kwargs))
        request = Request(call=call, outcome=outcome, paths=tuple(sys.path))
        with Forked(_fork_server(kind), request, log, log) as running:
            code = running.wait()
        if code != 0:
            raise InterpreterError(f"{function.__name__} died with exit code {code}: {_read(log)[-2000:]}")
        value, error = pickle.loads(outcome.read_bytes())  # noqa: S301 - written by our own child
    if error is not None:
        raise error
    result: R = value
    return result


def _kind(command: Sequence[str]) -> Kind:
    return KINDS.get(command[len(COMMAND)], LIGHT)


def _arguments(command: Sequence[str]) -> tuple[str, ...]:
    assert list(command[: len(COMMAND)]) == COMMAND, command
    return tuple(map(str, command[len(COMMAND) :]))


def _read(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


class ForkServer:
    """The process that has the imports done."""

    def __init__(self, kind: Kind) -> None:
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair()
        code = f"import sys, fork_server; sys.exit(fork_server.main({theirs.fileno()}, {list(kind.modules)}))"
        paths = os.pathsep.join(path for path in sys.path if path)
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env={**os.environ, **dict(kind.environment), "PYTHONPATH": paths},
            start_new_session=True,
        )
        theirs.close()

    def fork(self, request: Request, descriptors: list[int]) -> None:
        content = sent(request)
        with self._lock:  # threads of a test may start processes
            num_sent = socket.send_fds(self._socket, [content], descriptors)
            self._socket.sendall(content[num_sent:])

    def close(self) -> None:
        self._socket.close()
        self._process.wait()


@functools.cache
def _fork_server(kind: Kind) -> ForkServer:
    """One for each kind, as long as this process lives."""
    server = ForkServer(kind)
    atexit.register(server.close)
    return server


class Forked:
    """As `subprocess.Popen[str]` of a process that somebody else has forked."""

    def __init__(
        self, server: ForkServer, request: Request, stdout: IO[str] | int, stderr: IO[str] | int
    ) -> None:
        self.stdout: IO[str] | None = None
        self.returncode: int | None = None
        self._told, tell = os.pipe()
        nothing = os.open(os.devnull, os.O_RDWR)
        ours = [nothing, tell]
        if stdout == subprocess.PIPE:
            reading, stdout = os.pipe()
            self.stdout = os.fdopen(reading)
            ours.append(stdout)
        out, err = (
            nothing if end == subprocess.DEVNULL else end if isinstance(end, int) else end.fileno()
            for end in (stdout, stderr)
        )
        server.fork(request, [nothing, out, err, tell])
        for descriptor in ours:
            os.close(descriptor)
        self.pid = self._next_number()

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._told], [], [], 0)[0]:
            self._end()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._told], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("fedfer", timeout or 0.0)
            self._end()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _end(self) -> None:
        self.returncode = self._next_number()
        os.close(self._told)

    def _next_number(self) -> int:
        number: int
        (number,) = NUMBER.unpack(os.read(self._told, NUMBER.size))
        return number

    def __enter__(self) -> "Forked":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.stdout is not None:
            self.stdout.close()
        self.wait()
