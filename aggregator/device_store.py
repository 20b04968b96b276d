"""Devices in the database."""

import logging
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, bindparam, func, insert, or_, select, update

from fedfer.aggregator import tables
from fedfer.aggregator.database import Database
from fedfer.model.errors import StoreError

SEEN_SEC = 60.0
logger = logging.getLogger("fedfer.aggregator")


@dataclass(frozen=True)
class Device:
    """`contract`: of the model that the device brought with it, None if it takes any."""

    id: str
    name: str
    contract: str | None = None


@dataclass(frozen=True)
class KnownDevice:
    """A device with what the database has of its token; times in seconds since the epoch."""

    device: Device
    token_sha256: str
    expires_at: float
    revoked_at: float | None = None


class DeviceStore:
    """Methods raise StoreError."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._noting = threading.Lock()
        self._notes: dict[str, float] = {}  # device id: when it was heard of, not yet in the database
        self._oldest_note: float | None = None
        self._noter = ThreadPoolExecutor(1, "notes")
        self._remembering = threading.Lock()
        self._known: dict[str, KnownDevice] = {}  # by the token's sha256: found, and not changed since
        self._changes = 0  # of what may be remembered
        self._added = Counter[str | None]()  # by contract

    def close(self) -> None:
        """Waits for the notes that are being written."""
        self._noter.shutdown()

    def add(self, device: Device, token_sha256: str, expires_at: float, now: float, max_devices: int) -> bool:
        """Whether there was room for it."""
        table, changes = tables.devices, self._changes
        with self._database.write("enrol a device") as connection:
            count = connection.execute(select(func.count()).select_from(table)).scalar_one()
            if count >= max_devices:
                return False
            row = {
                "id": device.id,
                "name": device.name,
                "contract": device.contract,
                "token_sha256": token_sha256,
                "token_expires_at": expires_at,
                "enrolled_at": now,
                "seen_at": now,
            }
            connection.execute(insert(table).values(row))
        with self._remembering:
            self._added[device.contract] += 1
            if changes == self._changes:
                self._known[token_sha256] = KnownDevice(device, token_sha256, expires_at)
        return True

    def num_added(self, contract: str) -> int:
        """How many that fit this contract have enrolled since this store was opened."""
        with self._remembering:
            return self._added[contract] + self._added[None]

    def remembered(self, token_sha256: str) -> KnownDevice | None:
        """What `add` wrote or `by_token` found, if it still holds: without the database, from any thread."""
        return self._known.get(token_sha256)

    def by_token(self, token_sha256: str) -> KnownDevice | None:
        table, changes = tables.devices, self._changes
        with self._database.read("look up a device") as connection:
            row = connection.execute(select(table).where(table.c.token_sha256 == token_sha256)).first()
        if row is None:
            return None
        device = Device(row.id, row.name, row.contract)
        known = KnownDevice(device, row.token_sha256, row.token_expires_at, row.revoked_at)
        with self._remembering:
            if changes == self._changes and known.revoked_at is None:
                self._known[token_sha256] = known
        return known

    def _forget(self, device_id: str) -> None:
        """After a change; what is being read at this moment is not remembered either."""
        with self._remembering:
            self._changes += 1
            for token in [token for token, known in self._known.items() if known.device.id == device_id]:
                del self._known[token]

    def renew(self, device_id: str, last_sha256: str, token_sha256: str, expires_at: float) -> bool:
        """Gives the device another token; False if the last one is no longer its, or it was revoked."""
        table = tables.devices
        where = (
            (table.c.id == device_id) & (table.c.token_sha256 == last_sha256) & table.c.revoked_at.is_(None)
        )
        values = {"token_sha256": token_sha256, "token_expires_at": expires_at}
        try:
            with self._database.write("renew a token") as connection:
                return connection.execute(update(table).where(where).values(values)).rowcount == 1
        finally:
            self._forget(device_id)

    def revoke(self, device_id: str, now: float) -> bool:
        """Whether there is such a device; revoked is revoked, however often."""
        table = tables.devices
        values = {"revoked_at": func.coalesce(table.c.revoked_at, now)}
        try:
            with self._database.write("revoke a device") as connection:
                changed = connection.execute(update(table).where(table.c.id == device_id).values(values))
                return changed.rowcount == 1
        finally:
            self._forget(device_id)

    def see(self, device_id: str, now: float) -> None:
        """Notes that a device has been heard of, at once. All notes are written in one transaction, when the
        oldest is SEEN_SEC old or somebody asks who is active: one for each call would wait for the disk each
        time. A thread of its own writes them, so that a database that is held up holds up nobody."""
        with self._noting:
            self._notes[device_id] = now
            self._oldest_note = now if self._oldest_note is None else self._oldest_note
            is_due = now - self._oldest_note >= SEEN_SEC
            if is_due:
                self._oldest_note = None
        if is_due:
            self._noter.submit(self._try_to_write_notes)

    def _try_to_write_notes(self) -> None:
        try:
            self._write_notes()
        except StoreError as error:
            logger.error("which devices were heard of is noted later: %s", error)

    def _write_notes(self) -> None:
        with self._noting:
            notes, self._notes, self._oldest_note = self._notes, {}, None
        if not notes:
            return
        table = tables.devices
        noted = update(table).where(table.c.id == bindparam("device")).values(seen_at=bindparam("at"))
        try:
            with self._database.write("note devices") as connection:
                connection.execute(noted, [{"device": device, "at": at} for device, at in notes.items()])
        except StoreError:
            with self._noting:
                self._notes = notes | self._notes
            raise

    def active(self, since: float, contract: str) -> list[Device]:
        """Devices heard of since then that can work with a model of this contract, the latest last."""
        self._write_notes()
        table = tables.devices
        with self._database.read("read devices") as connection:
            heard = select(table).where(_is_active(since, contract))
            rows = connection.execute(heard.order_by(table.c.seen_at, table.c.enrolled_at))
            return [Device(row.id, row.name, row.contract) for row in rows]

    def count_active(self, since: float, contract: str) -> int:
        """About how many these are: what was noted in the last SEEN_SEC may be missing."""
        with self._database.read("count devices") as connection:
            active = select(func.count()).select_from(tables.devices).where(_is_active(since, contract))
            return connection.execute(active).scalar_one()

    def count(self) -> int:
        with self._database.read("count devices") as connection:
            return connection.execute(select(func.count()).select_from(tables.devices)).scalar_one()


def _is_active(since: float, contract: str) -> ColumnElement[bool]:
    table = tables.devices
    fits = or_(table.c.contract == contract, table.c.contract.is_(None))
    return and_(fits, table.c.seen_at >= since - SEEN_SEC, table.c.revoked_at.is_(None))
