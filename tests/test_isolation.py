"""Calls in a process of their own: what goes in, what comes out, what does not."""

import subprocess
import sys

import pytest
from isolation_helpers import chatty, die, divide, doubled

from fedfer.export.isolation import call_isolated
from fedfer.model.errors import InterpreterError

CHATTY = (
    "import isolation_helpers as h, fedfer.export.isolation as i; assert i.call_isolated(h.chatty, 1) == 2"
)


def test_large_arguments_and_results_pass() -> None:
    """More than the buffers of pipes hold."""
    data = bytes(range(256)) * 4096 * 8
    assert call_isolated(doubled, data) == data * 2


def test_what_the_function_raises_is_raised_here() -> None:
    with pytest.raises(ZeroDivisionError):
        call_isolated(divide, 1)


def test_a_process_that_dies_is_named_with_its_last_words() -> None:
    with pytest.raises(InterpreterError, match=r"ran die died with exit code 7 \['out of fuel'\]"):
        call_isolated(die, "out of fuel")


def test_a_process_that_dies_before_it_has_read_the_call_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(InterpreterError, match="exit code 1"):
        call_isolated(doubled, bytes(2**20))


def test_what_the_function_prints_stays_off_the_terminal() -> None:
    program = f"import sys; sys.path[:] = {sys.path!r}; {CHATTY}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert call_isolated(chatty, 5) == 6
