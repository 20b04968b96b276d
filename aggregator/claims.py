"""Files that are written and not yet named in the database: whoever deletes files must leave them alone.

Files are named by their content, so two runs may make the same one at the same time: a run that is begun from
weights that another is about to drop, two runs that come to equal candidates.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class Claims:
    """Of one server. Methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held = Counter[Path]()

    @contextmanager
    def held(self) -> Iterator[Callable[[Path], None]]:
        """A function that claims a place until the block is left; to be called before the file is written."""
        mine: list[Path] = []

        def claim(place: Path) -> None:
            with self._lock:
                self._held[place] += 1
                mine.append(place)

        try:
            yield claim
        finally:
            with self._lock:
                self._held.subtract(mine)
                self._held += Counter()  # forgets those at zero

    def drop_unless(self, is_named: Callable[[], bool], place: Path, drop: Callable[[Path], None]) -> bool:
        """Calls `drop` unless somebody claims the place or `is_named` says that it is needed; no claim is
        made meanwhile. Whether it was called. Raises what the two raise."""
        with self._lock:
            if self._held[place] or is_named():
                return False
            drop(place)
            return True
