"""Keeps TensorFlow's start-up chatter off the terminal; what it says is shown when a command fails."""

import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """While active, stderr (native logs included) goes to a file that is shown on an unexpected error."""
    from fedfer.model.errors import FedferError

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            yield
        except FedferError:
            raise
        except BaseException:
            log.seek(0)
            os.write(terminal, log.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """For work that makes millions of objects which live until its end, such as importing TensorFlow and
    converting a model: looking through them again and again cost an eighth of an export."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
