"""How far a device is in its training, kept after a step, for the process that goes on when this one is
killed in a later one.

    two slots, each   4,096 bytes of header, then all that steps change (Contract.state_shapes), float32
    header            magic, task, finished step, sums, seconds, sum of the content, checksum of the header

Steps are written into the two slots of a mapped file in turn, so that one of them holds a step whole whenever
the process is killed: its pages stay with the system. A slot whose checksums do not fit, as may be after a
power cut, is none. A task is named by all that decides its weights (trainer.task_name); what another task
left is ignored.

Beside the `save` that gives the weights it costs one copy of them and one pass over them (docs/log.md).
"""

import mmap
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fedfer.export.checkpoint import Weights
from fedfer.model.errors import UsageError

PAGE_BYTES = 4096
MAGIC = b"fedferP1"
HEADER = struct.Struct("<8s32sQdddQ")  # then its CRC-32
CHECKSUM = struct.Struct("<I")


@dataclass(frozen=True)
class Position:
    """How far a task is: finished steps over all epochs, sums over the images of the newest epoch that has
    begun, and wall-clock seconds spent."""

    step: int = 0
    loss_sum: float = 0.0
    accuracy_sum: float = 0.0
    train_sec: float = 0.0


class Progress:
    """One task's file. Use it as a context manager; `path` is in a directory that exists."""

    def __init__(self, path: Path, task: bytes, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Opens the file, or makes it at its full size. Raises UsageError when it cannot be."""
        self._task = task
        self._slot = 0  # the one that is not written next
        self._shapes = dict(shapes)
        self._content_bytes = 4 * sum(int(np.prod(shape)) for shape in self._shapes.values())
        self._slot_bytes = PAGE_BYTES + -(-self._content_bytes // PAGE_BYTES) * PAGE_BYTES
        try:
            self._map = self._mapped(path, 2 * self._slot_bytes)
        except OSError as error:
            why = error.strerror or str(error)
            raise UsageError(
                f"cannot keep progress in {path}: {why}; make room, or name another directory"
            ) from None

    @staticmethod
    def _mapped(path: Path, num_bytes: int) -> mmap.mmap:
        """Of exactly this size, its blocks taken: a full disk is an error here, not a signal later."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, num_bytes)
            os.posix_fallocate(descriptor, 0, num_bytes)
            return mmap.mmap(descriptor, num_bytes)
        finally:
            os.close(descriptor)

    def keep(self, position: Position, state: Weights) -> None:
        """Keeps what `state` (f32 arrays of the shapes given, in any order) is after this many steps."""
        self._slot = 1 - self._slot
        start = self._slot * self._slot_bytes
        self._map[start : start + len(MAGIC)] = bytes(len(MAGIC))  # no slot while it is written
        content = self._content(self._slot)
        at = 0
        for name in self._shapes:
            values = np.ascontiguousarray(state[name], np.float32).reshape(-1)
            content[at : at + values.size] = values
            at += values.size
        header = HEADER.pack(
            MAGIC,
            self._task,
            position.step,
            position.loss_sum,
            position.accuracy_sum,
            position.train_sec,
            _sum(content),
        )
        # The magic comes last: the order of stores of one process is what another finds in the pages.
        checked = header + CHECKSUM.pack(zlib.crc32(header))
        self._map[start + len(MAGIC) : start + len(checked)] = checked[len(MAGIC) :]
        self._map[start : start + len(MAGIC)] = MAGIC

    def last(self) -> tuple[Position, Weights] | None:
        """The newest whole step of this task, copied out of the file; None if there is none."""
        found = [(position, total, slot) for slot in (0, 1) for position, total in self._header(slot)]
        for position, total, slot in sorted(found, key=lambda each: -each[0].step):
            if _sum(self._content(slot)) == total:
                self._slot = slot
                return position, self._state(slot)
        return None

    def _header(self, slot: int) -> list[tuple[Position, int]]:
        start = slot * self._slot_bytes
        header = self._map[start : start + HEADER.size]
        (checksum,) = CHECKSUM.unpack_from(self._map, start + HEADER.size)
        magic, task, step, loss_sum, accuracy_sum, train_sec, total = HEADER.unpack(header)
        if magic != MAGIC or checksum != zlib.crc32(header) or task != self._task:
            return []
        return [(Position(step, loss_sum, accuracy_sum, train_sec), total)]

    def _content(self, slot: int) -> NDArray[np.float32]:
        offset = slot * self._slot_bytes + PAGE_BYTES
        return np.frombuffer(self._map, np.float32, self._content_bytes // 4, offset)

    def _state(self, slot: int) -> Weights:
        content, state, at = self._content(slot), {}, 0
        for name, shape in self._shapes.items():
            size = int(np.prod(shape))
            state[name] = content[at : at + size].reshape(shape).copy()
            at += size
        return state

    def close(self) -> None:
        """What was kept stays for the next process."""
        self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _sum(content: NDArray[np.float32]) -> int:
    """The sum of the bits as whole numbers, modulo 2**64: one fast pass that sees pages not written."""
    even = content.size // 2 * 2
    words = content[:even].view(np.uint64)
    rest = int(content[even:].view(np.uint32).sum(dtype=np.uint64))
    return (int(np.add.reduce(words, dtype=np.uint64)) + rest) % 2**64
