"""Ctrl-C, SIGTERM and SIGHUP in a block: they end it, but never in the middle of what they would tear.

What a signal handler raises comes out of whatever line is running. In `subprocess.Popen(...)` that leaves a
process that nobody knows of, in `Popen.poll()` a lock that nobody opens again. There signals are held: noted,
and acted on when that is done. They are not masked, for a mask would be inherited by what is started.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """From `begin` to `end` SIGTERM and SIGHUP raise SystemExit(128 + number), and SIGINT what it did before.

    A signal that was ignored, as nohup has it, stays so. `leave` is the function in which the block is left:
    one that comes as it is called is too late to raise anything.
    """

    def __init__(self, leave: Callable[..., object]) -> None:
        self._leave = leave.__code__
        self._former: dict[signal.Signals, Any] = {}
        self._noted: list[int] = []
        self._num_holds = 0

    def begin(self) -> None:
        for number in SIGNALS:
            former = signal.getsignal(number)
            if former is not signal.SIG_IGN:
                self._former[number] = former
                signal.signal(number, self._arrive)

    @contextmanager
    def held(self) -> Iterator[None]:
        """What comes in this block is acted on at its end."""
        self._num_holds += 1
        try:
            yield
        finally:
            self._num_holds -= 1
            if self._noted and not self._num_holds:
                self._raise(self._noted.pop(), None)

    def hold(self) -> None:
        """From now on nothing interrupts, until `end`."""
        self._num_holds += 1

    def end(self) -> list[int]:
        """The former handlers are put back; returns the signals that nobody has acted on."""
        for number, handler in self._former.items():
            signal.signal(number, handler)
        return self._noted

    def _arrive(self, number: int, frame: FrameType | None) -> None:
        if self._num_holds or (frame is not None and frame.f_code is self._leave):
            self._noted.append(number)
        else:
            self._raise(number, frame)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        if number != signal.SIGINT:
            raise SystemExit(128 + number)
        former = self._former[signal.SIGINT]
        if callable(former):
            former(number, frame)
        else:
            raise KeyboardInterrupt
