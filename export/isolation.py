"""Calling a function in a fresh process of its own.

The interpreter and TensorFlow cannot share a process, a crash in native code must not take a service
down, and memory taken by one evaluation has to go back to the system.
"""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import ParamSpec, TypeVar

from fedfer.model.errors import InterpreterError

P = ParamSpec("P")
R = TypeVar("R")


def call_isolated(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """`function(*args, **kwargs)` in a new process; its FedferErrors are raised here.

    The function must be importable by name. A process that dies raises InterpreterError.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=spawn) as pool:
        try:
            return pool.submit(function, *args, **kwargs).result()
        except BrokenProcessPool:
            raise InterpreterError(
                f"the process that ran {function.__name__} died (out of memory, or a crash in the runtime)"
            ) from None
