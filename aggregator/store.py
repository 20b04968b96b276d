"""What the aggregator must not forget: devices, runs, rounds and updates in SQL, their bytes in `Blobs`.

Every method of its parts that writes is one transaction and durable when it returns. They may be called from
any thread, and raise StoreError.
"""

import sqlite3
from contextlib import closing
from urllib.parse import quote

from fedfer.aggregator.blobs import Blobs
from fedfer.aggregator.claims import Claims
from fedfer.aggregator.database import Database
from fedfer.aggregator.device_store import DeviceStore
from fedfer.aggregator.refusal_store import RefusalStore
from fedfer.aggregator.round_store import RoundStore
from fedfer.aggregator.run_store import RunStore
from fedfer.aggregator.version_store import VersionStore
from fedfer.model.errors import StoreError

FILE_NAME = "fedfer.db"
_WAY_OUT = "leave database-url out to go on; to begin anew take another directory, or move that file away"


class Store:
    """State of one aggregator, by noun."""

    def __init__(self, blobs: Blobs, database_url: str | None = None) -> None:
        """Opens or creates the database. Raises StoreError."""
        self.blobs, self.claims = blobs, Claims()
        self.database = Database(database_url or f"sqlite:///{blobs.root / FILE_NAME}")
        self.devices = DeviceStore(self.database)
        self.runs = RunStore(self.database)

    def check_none_is_left(self) -> None:
        """Raises StoreError if SQLite's file in the directory has runs and the database in use has none: the
        runs would seem to be lost, and begin anew."""
        path = self.blobs.root / FILE_NAME
        if path.is_file() and not self.runs.rows():
            try:
                with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True)) as left:
                    has_table = left.execute("SELECT 1 FROM sqlite_master WHERE name = 'runs'").fetchone()
                    runs = left.execute("SELECT count(*) FROM runs").fetchone()[0] if has_table else 0
            except sqlite3.Error as error:
                raise StoreError(f"cannot look for runs in {path}: {error}; {_WAY_OUT}") from None
            if runs:
                raise StoreError(f"{path} holds runs ({runs}), the database of database-url none; {_WAY_OUT}")

    def rounds(self, run: str) -> RoundStore:
        """The rounds of one run."""
        return RoundStore(self.database, run)

    def refusals(self, run: str) -> RefusalStore:
        """Uploads of one run that were refused."""
        return RefusalStore(self.database, run)

    def versions(self, run: str) -> VersionStore:
        """The versions of one run."""
        return VersionStore(self.database, run)

    def close(self) -> None:
        self.devices.close()
        self.database.close()
        self.blobs.close()
