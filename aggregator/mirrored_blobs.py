"""Files in a bucket, with the data directory as their cache and as the place where they are made.

`keep` returns when the bucket has the file; `present` brings a file that only the bucket has. So a receipt,
and a round's commit, stand on the bucket alone: a server on another machine, with an empty data directory and
the same database, goes on.
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from fedfer.aggregator.blobs import Blobs, file_sha256
from fedfer.aggregator.bucket import Bucket
from fedfer.aggregator.faults import reach
from fedfer.model.errors import StoreError

logger = logging.getLogger("fedfer.aggregator")
IN_USE_SEC = 300.0  # a file that was asked for so recently may be being read
CACHED = ("models", "versions", "states")  # leave the directory when there are too many
UPDATES = "updates"
PROBE_KEY = "probe"


class MirroredBlobs(Blobs):
    """As `Blobs`, where every file is in the bucket too. Raises StoreError besides OSError."""

    def __init__(
        self,
        root: Path,
        bucket: Bucket,
        max_cache_bytes: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`max_cache_bytes`: models and versions beyond it leave the directory, the longest unused first."""
        super().__init__(root)
        self.bucket, self._max_cache_bytes, self._clock = bucket, max_cache_bytes, clock
        self._fetching = threading.Lock()
        self._sent: set[str] = set()  # keys that the bucket has ahead of `keep`
        self._in_bucket: set[str] = set()  # keys of CACHED files that the bucket is known to have

    def send_ahead(self, temporary: Path, place: Path) -> None:
        key = self._key(place)
        self.bucket.put(key, temporary)
        reach("update_sent_ahead")
        self._sent.add(key)

    def keep(self, temporary: Path, place: Path) -> None:
        key = self._key(place)
        if key in self._sent:
            self._sent.discard(key)
        else:
            self.bucket.put(key, temporary)
        reach("file_in_bucket")
        self._note(key)
        super().keep(temporary, place)
        self._shrink(place)

    def present(self, place: Path) -> Path:
        if not place.is_file():
            with self._fetching:  # the first of several that ask at once fetches for all
                if not place.is_file():
                    self._fetch(place)
        with contextlib.suppress(OSError):
            os.utime(place, (self._clock(), self._clock()))
        return place

    def checked(self, place: Path) -> Path:
        """As in `Blobs`; a damaged file is fetched anew."""
        try:
            return super().checked(place)
        except StoreError:
            place.unlink(missing_ok=True)
            return super().checked(place)

    def send_missing(self, deleted: Collection[str]) -> None:
        """As where the directory was used without this bucket before."""
        for name in CACHED:
            self._in_bucket.update(self.bucket.keys(f"{name}/"))
        found = [path for name in (*CACHED, UPDATES) for path in (self.root / name).rglob("*")]
        keys = {self._key(path): path for path in sorted(found) if path.is_file()}
        stored = set(self._in_bucket)
        if any(key.startswith(f"{UPDATES}/") for key in keys):
            stored.update(self.bucket.keys(f"{UPDATES}/"))
        missing = {k: path for k, path in keys.items() if k not in stored and path.stem not in deleted}
        if missing:
            logger.info("%s lacks %d files of %s: sending them", self.bucket.name, len(missing), self.root)
        for key, path in missing.items():
            if file_sha256(path) == path.stem:
                self.bucket.put(key, path)
                self._note(key)
            else:  # would be taken for the file that may yet be restored
                logger.warning("%s is damaged, its sha256 is not its name: not put into the bucket", path)

    def check_bucket(self) -> None:
        self.bucket.probe(PROBE_KEY)

    def drop(self, place: Path) -> None:
        super().drop(place)
        self._in_bucket.discard(self._key(place))
        with _harmless():
            self.bucket.delete([self._key(place)])

    def drop_updates(self, run: str, round_number: int) -> None:
        super().drop_updates(run, round_number)
        prefix = f"{UPDATES}/{run}/{round_number}/"
        self._sent = {key for key in self._sent if not key.startswith(prefix)}
        with _harmless():
            self.bucket.delete(self.bucket.keys(prefix))

    def drop_updates_before(self, run: str, round_number: int) -> None:
        super().drop_updates_before(run, round_number)
        with _harmless():
            keys = self.bucket.keys(f"{UPDATES}/{run}/")
            self.bucket.delete([key for key in keys if _round_of(key) < round_number])

    def _fetch(self, place: Path) -> None:
        temporary = self.temporary_path()
        try:
            self.bucket.fetch(self._key(place), temporary, sha256=place.stem)
            self._note(self._key(place))
            super().keep(temporary, place)
        finally:
            temporary.unlink(missing_ok=True)
        self._shrink(place)

    def _key(self, place: Path) -> str:
        return place.relative_to(self.root).as_posix()

    def _note(self, key: str) -> None:
        """The bucket has it."""
        if not key.startswith(f"{UPDATES}/"):
            self._in_bucket.add(key)

    def _shrink(self, keeping: Path) -> None:
        """Deletes what the bucket has and nobody has asked for lately, while the directory holds too much."""
        files = [path for name in CACHED for path in (self.root / name).iterdir()]
        used = sorted((path.stat().st_mtime, path.stat().st_size, path) for path in files)
        excess = sum(size for _, size, _ in used) - self._max_cache_bytes
        for last_used, size, path in used:
            if excess <= 0 or last_used > self._clock() - IN_USE_SEC:
                return
            if path != keeping and self._key(path) in self._in_bucket:
                path.unlink(missing_ok=True)
                excess -= size


@contextlib.contextmanager
def _harmless() -> Iterator[None]:
    """What cannot be deleted stays, and is in nobody's way."""
    try:
        yield
    except StoreError as error:
        logger.warning("%s", error)


def _round_of(key: str) -> int:
    """The round's number in the key of an update."""
    number = key.split("/")[2]
    return int(number) if number.isdigit() else 0
