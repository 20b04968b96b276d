"""Child processes of a command: each with its log file, each stopped whatever way the command ends.

A child leads a process group of its own, so that Ctrl-C reaches this process alone, which then stops the
children in order; and so that what a child has started goes with it.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from fedfer.cli.interrupts import Interrupts
from fedfer.cli.key_files import ADMIN_VARIABLE, ENROL_VARIABLE
from fedfer.model.errors import FedferError

STOP_SEC = 10.0
POLL_SEC = 0.05
COMMANDS = "fedfer.cli.main"
KEY_VARIABLES = (ENROL_VARIABLE, ADMIN_VARIABLE)
LOG_TAIL_LINES = 12
LOG_TAIL_BYTES = 8192


def _environment() -> dict[str, str]:
    """This process's, without keys: what runs here is for this machine only, and read without one."""
    kept = {name: value for name, value in os.environ.items() if name not in KEY_VARIABLES}
    return {**kept, "PYTHONUNBUFFERED": "1"}


class Child:
    """One `fedfer` command, or another module that can be run, in the background, with stdout and stderr in
    its log."""

    def __init__(
        self, arguments: Sequence[str], log: Path, interrupts: Interrupts, module: str = COMMANDS
    ) -> None:
        self.name, self.log = arguments[0] if module == COMMANDS else module.rpartition(".")[2], log
        self._interrupts = interrupts
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment(),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_running(self) -> bool:
        """Raises FedferError, with the end of the log, for a child that failed."""
        with self._interrupts.held():
            code = self._process.poll()
        if code:
            ended = f"exit code {code}" if code > 0 else f"signal {signal.Signals(-code).name}"
            raise self.failure(f"failed with {ended}")
        return code is None

    def wait(self, timeout_sec: float) -> None:
        """Until it has ended. Raises FedferError as `is_running`, and when it takes too long."""
        give_up_at = time.monotonic() + timeout_sec
        while self.is_running():
            if time.monotonic() > give_up_at:
                raise self.failure(f"still runs after {timeout_sec:g} s")
            time.sleep(POLL_SEC)

    def failure(self, what: str) -> FedferError:
        """An error that says what went wrong with this child and how its log ends."""
        return FedferError(
            f"`fedfer {self.name}` {what}; {self.log} ends:\n{log_tail(self.log)}", code="child_failed"
        )

    def stop(self) -> None:
        """SIGTERM; SIGKILL to what is left of it after STOP_SEC."""
        if self._process.returncode is not None:
            return
        with self._interrupts.held():
            self._signal_group(signal.SIGTERM)
            self._wait_for_end()
            self._signal_group(signal.SIGKILL)
            self._wait_for_end()

    def kill(self) -> None:
        """SIGKILL, as a crash is, to it and what it has started."""
        with self._interrupts.held():
            self._signal_group(signal.SIGKILL)
            self._wait_for_end()

    def _wait_for_end(self) -> None:
        """Not for ever: nothing ends a process that hangs in the kernel."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SEC)

    def _signal_group(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


class Children:
    """Starts children, and stops those that still run when the block is left, the last started first.

    In the block SIGTERM and SIGHUP end it as Ctrl-C does; once it is being left, nothing interrupts it.
    """

    def __init__(self, log_dir: Path) -> None:
        self._log_dir = log_dir
        self._children: list[Child] = []
        self._interrupts = Interrupts(Children.__exit__)

    def start(self, *arguments: str) -> Child:
        """`fedfer` with these arguments; its log is named after the command."""
        return self._start(arguments, arguments[0], COMMANDS)

    def start_module(self, module: str, *arguments: str) -> Child:
        """A module that can be run, with these arguments; its log is named after it."""
        return self._start(arguments, module.rpartition(".")[2], module)

    def _start(self, arguments: Sequence[str], name: str, module: str) -> Child:
        with self._interrupts.held():  # from its first moment on it is one that will be stopped
            child = Child(arguments, self._log_dir / f"{name}.log", self._interrupts, module)
            self._children.append(child)
        return child

    def check(self) -> None:
        """Raises FedferError when one of them failed."""
        for child in self._children:
            child.is_running()

    def __enter__(self) -> "Children":
        self._interrupts.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._interrupts.hold()
        for child in reversed(self._children):
            child.stop()
        late = self._interrupts.end()
        if late and error is None:  # else the block ends early anyway
            signal.raise_signal(late[0])


def wait_for_line(child: Child, start: str, timeout_sec: float) -> str:
    """The first line of a child's log that begins so. Raises FedferError when it ends or time runs out."""
    give_up_at = time.monotonic() + timeout_sec
    while time.monotonic() < give_up_at:
        running = child.is_running()
        for line in child.log.read_text(errors="replace").splitlines(keepends=True):
            if line.startswith(start) and line.endswith("\n"):
                return line.rstrip()
        if not running:
            break
        time.sleep(POLL_SEC)
    raise child.failure(f"did not say `{start}` within {timeout_sec:g} s")


def log_tail(log: Path) -> str:
    """The last lines of a log, indented."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(f"  {line}" for line in lines[-LOG_TAIL_LINES:]) or "  (nothing)"
