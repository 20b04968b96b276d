"""Calling a function in a process of its own: what comes back, how it fails, and how it ends."""

import os
import signal
import sys
import threading
from pathlib import Path

import isolated_functions as functions
import numpy as np
import pytest
from waiting import is_running

from fedfer.export.isolation import call_isolated, call_isolated_each
from fedfer.model.errors import CheckpointError, InterpreterError, RefusedError


def test_arguments_and_result_travel() -> None:
    assert call_isolated(functions.add, 2, b=3) == 5
    numbers = np.arange(3_000_000, dtype=np.float32)  # 12 MB: more than any pipe holds
    np.testing.assert_array_equal(call_isolated(functions.doubled, numbers), 2 * numbers)


def test_each_call_has_a_process_of_its_own() -> None:
    here, one, other = os.getpid(), *(call_isolated(functions.process_id) for _ in range(2))
    assert len({here, one, other}) == 3


def test_the_process_starts_afresh() -> None:
    """It imports the function's module and not what the caller has; it searches where the caller does."""
    loaded = call_isolated(functions.loaded_modules)
    assert {"isolated_functions", "fedfer.export.isolation"} <= loaded
    assert "pytest" not in loaded
    assert call_isolated(functions.search_path) == sys.path


def test_prints_do_not_mix_with_the_result(capfd: pytest.CaptureFixture[str]) -> None:
    assert call_isolated(functions.print_in_every_way) == "result"
    assert capfd.readouterr() == ("", "")


def test_errors_are_raised_here_as_they_were_there() -> None:
    with pytest.raises(ValueError, match="three") as value:
        call_isolated(functions.fail, "value")
    assert value.value.args == ("three", 3)
    with pytest.raises(CheckpointError, match=r"^no$") as checkpoint:
        call_isolated(functions.fail, "checkpoint")
    assert checkpoint.value.code == "not_finite"
    with pytest.raises(RefusedError, match=r"^gone$") as refused:
        call_isolated(functions.fail, "refused")
    assert (refused.value.code, refused.value.status) == ("round_over", 409)


@pytest.mark.parametrize(("how", "code"), [("exit", 3), ("sys.exit", 4), ("crash", -signal.SIGSEGV)])
def test_a_process_that_dies_is_named_with_its_last_words(how: str, code: int) -> None:
    message = rf"the process that ran die died with exit code {code} \['last words'\]"
    with pytest.raises(InterpreterError, match=message):
        call_isolated(functions.die, how)


def test_a_result_that_cannot_travel_is_an_error() -> None:
    with pytest.raises(InterpreterError, match="return_what_cannot_travel died with exit code 1"):
        call_isolated(functions.return_what_cannot_travel)


def test_calls_within_calls_and_beside_each_other() -> None:
    assert call_isolated(functions.nested, 4) == 5
    results: dict[int, int] = {}

    def call(number: int) -> None:
        results[number] = call_isolated(functions.add, number, b=number)

    threads = [threading.Thread(target=call, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: 2 * number for number in range(4)}


def test_several_run_at_once_and_answer_in_order(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    assert len({*call_isolated_each(functions.meet, [(one, other), (other, one)])}) == 2
    numbers = np.arange(3_000_000, dtype=np.float32)
    for number, found in enumerate(call_isolated_each(functions.doubled, [(numbers,), (numbers + 1,)])):
        np.testing.assert_array_equal(found, 2 * (numbers + number))


def test_the_others_end_with_the_one_that_fails(tmp_path: Path) -> None:
    marker = tmp_path / "started"
    with pytest.raises(ValueError, match="three"):
        call_isolated_each(functions.stay_or_fail, [(marker, False), (marker, True)])
    assert not is_running(int(marker.read_text()))
