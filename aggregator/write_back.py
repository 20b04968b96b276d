"""Large files on their way to the disk while they are written, not all at once when they are synced.

A sync of 20 MB keeps the disk for 50 ms, and whoever syncs a page meanwhile waits as long: a device that asks
for work, whose place in the round is durable before it is told.
"""

import os

STEP_BYTES = 1 << 20


class WriteBack:
    """Of one file that is written in order, from its present end on."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._begun = self._written = os.fstat(descriptor).st_size

    def note(self, num_bytes: int) -> None:
        """So many bytes more have been written. Does not wait for the disk, and promises nothing: a sync
        does, and has little left to do. Raises OSError."""
        self._written += num_bytes
        num_waiting = self._written - self._begun
        if num_waiting >= STEP_BYTES:
            if hasattr(os, "posix_fadvise"):  # not on macOS
                # Linux begins to write what is not on the disk yet, and forgets what is: nothing of this.
                os.posix_fadvise(self._descriptor, self._begun, num_waiting, os.POSIX_FADV_DONTNEED)
            self._begun = self._written
