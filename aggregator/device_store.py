"""Devices in the database."""

from dataclasses import dataclass

from sqlalchemy import func, insert, select

from fedfer.aggregator import tables
from fedfer.aggregator.database import Database


@dataclass(frozen=True)
class Device:
    """`contract`: of the model that the device brought with it, None if it takes any."""

    id: str
    name: str
    contract: str | None = None


class DeviceStore:
    """Methods raise StoreError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, device: Device, token_sha256: str, now: float, max_devices: int) -> bool:
        """Whether there was room for it."""
        table = tables.devices
        with self._database.write("enrol a device") as connection:
            count = connection.execute(select(func.count()).select_from(table)).scalar_one()
            if count >= max_devices:
                return False
            row = {
                "id": device.id,
                "name": device.name,
                "contract": device.contract,
                "token_sha256": token_sha256,
                "enrolled_at": now,
            }
            connection.execute(insert(table).values(row))
            return True

    def by_token(self, token_sha256: str) -> tuple[Device, str] | None:
        """The device and the stored sha256 of its token."""
        table = tables.devices
        with self._database.read("look up a device") as connection:
            row = connection.execute(select(table).where(table.c.token_sha256 == token_sha256)).first()
        return (Device(row.id, row.name, row.contract), row.token_sha256) if row else None

    def count(self) -> int:
        with self._database.read("count devices") as connection:
            return connection.execute(select(func.count()).select_from(tables.devices)).scalar_one()
