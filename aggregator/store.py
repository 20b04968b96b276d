"""What the aggregator must not forget: devices, runs, rounds and updates in SQL, their bytes in `Blobs`.

Every method of its parts that writes is one transaction and durable when it returns. They may be called from
any thread, and raise StoreError.
"""

from fedfer.aggregator.blobs import Blobs
from fedfer.aggregator.claims import Claims
from fedfer.aggregator.database import Database
from fedfer.aggregator.device_store import DeviceStore
from fedfer.aggregator.round_store import RoundStore
from fedfer.aggregator.run_store import RunStore
from fedfer.aggregator.version_store import VersionStore


class Store:
    """State of one aggregator, by noun."""

    def __init__(self, blobs: Blobs, database_url: str | None = None) -> None:
        """Opens or creates the database. Raises StoreError."""
        self.blobs, self.claims = blobs, Claims()
        self.database = Database(database_url or f"sqlite:///{blobs.root / 'fedfer.db'}")
        self.devices = DeviceStore(self.database)
        self.runs = RunStore(self.database)

    def rounds(self, run: str) -> RoundStore:
        """The rounds of one run."""
        return RoundStore(self.database, run)

    def versions(self, run: str) -> VersionStore:
        """The versions of one run."""
        return VersionStore(self.database, run)

    def close(self) -> None:
        self.devices.close()
        self.database.close()
        self.blobs.close()
