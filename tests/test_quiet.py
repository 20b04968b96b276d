"""What surrounds work with TensorFlow: its chatter is kept, garbage collection waits."""

import gc
import os
import subprocess
import sys

import pytest

from fedfer.export.quiet import without_garbage_collection

CHATTER = """
import os
from fedfer.export.quiet import quiet_tensorflow
from fedfer.model.errors import UsageError
with quiet_tensorflow():
    os.write(2, b"chatter")
    {}
"""


@pytest.mark.parametrize(
    ("then", "is_shown"),
    [("pass", False), ("raise UsageError('no')", False), ("raise ZeroDivisionError", True)],
)
def test_chatter_is_shown_when_something_unexpected_happens(then: str, is_shown: bool) -> None:
    command = [sys.executable, "-c", CHATTER.format(then)]
    done = subprocess.run(command, capture_output=True, env=dict(os.environ), check=False)
    assert (b"chatter" in done.stderr) == is_shown


def test_garbage_collection_goes_on_as_before() -> None:
    assert gc.isenabled()
    with without_garbage_collection():
        with without_garbage_collection():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_garbage_collection_goes_on_after_a_failure() -> None:
    with pytest.raises(ZeroDivisionError), without_garbage_collection():
        raise ZeroDivisionError
    assert gc.isenabled()
