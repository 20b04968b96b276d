"""Snapshots of a simulation, so that a long one that was broken off goes on from its last recorded round.

    snapshot/state.json      the orchestrator's state, with the scenario it belongs to
    snapshot/fedfer.db       the aggregator's database at that moment
    snapshot/files/...       its models, versions and what strategies remember, as hard links

A snapshot appears whole or not at all: it is made in snapshot.new and renamed; the one before it is
snapshot.old meanwhile, so that there is one at any moment. Going on puts the aggregator
back to that moment as well, so that everything after it happens once more, in the same way.
"""

import fcntl
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from fedfer.model.errors import DataError, UsageError

EVERY_SEC = 20.0  # of real time, at most one snapshot
DATABASE = "fedfer.db"
FILES = ("models", "versions", "states")


class Journal:
    """Of one simulation; `server` is the aggregator's data directory. `identity`: what has to be the same
    for a simulation to go on."""

    def __init__(self, directory: Path, server: Path, identity: dict[str, Any]) -> None:
        self._place = directory / "snapshot"
        self._before = self._place.with_suffix(".old")
        self._server, self._identity = server, identity
        self._kept_at = -EVERY_SEC

    def keep(self, state: Callable[[], dict[str, Any]]) -> None:
        """Takes a snapshot unless the last one is fresh. The aggregator must not be doing anything but
        deleting the files of versions that its database no longer keeps."""
        if time.monotonic() - self._kept_at < EVERY_SEC:
            return
        fresh = self._place.with_suffix(".new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        for name in FILES:
            (fresh / "files" / name).mkdir(parents=True)
            for path in (self._server / name).iterdir():
                with suppress(FileNotFoundError):  # deleted meanwhile; the database, copied next, knows it
                    os.link(path, fresh / "files" / name / path.name)
        with (
            closing(sqlite3.connect(self._server / DATABASE)) as source,
            closing(sqlite3.connect(fresh / DATABASE)) as copy,
        ):
            source.backup(copy)
        body = {"identity": self._identity, "state": state()}
        (fresh / "state.json").write_text(json.dumps(body, allow_nan=False))
        shutil.rmtree(self._before, ignore_errors=True)
        with suppress(FileNotFoundError):
            self._place.rename(self._before)
        fresh.rename(self._place)
        shutil.rmtree(self._before, ignore_errors=True)
        self._kept_at = time.monotonic()

    def find(self) -> dict[str, Any] | None:
        """The state of the last snapshot, None without one. Raises DataError for one of another scenario, or
        one that cannot be read."""
        if not self._place.exists() and self._before.exists():  # killed between the two renames of `keep`
            self._before.rename(self._place)
        try:
            body = json.loads((self._place / "state.json").read_text())
            identity, state = body["identity"], body["state"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{self._place} cannot be read ({error}); remove it to begin anew") from None
        if identity != self._identity:
            changed = sorted(key for key in self._identity if identity.get(key) != self._identity[key])
            raise DataError(
                f"{self._place} is of another simulation (other {', '.join(changed)}); "
                "take another --output, or --fresh to begin anew"
            )
        found: dict[str, Any] = state
        return found

    def put_back(self) -> None:
        """Makes the aggregator's directory what it was at the snapshot; it must not be running."""
        for name in (f"{DATABASE}-wal", f"{DATABASE}-shm"):
            (self._server / name).unlink(missing_ok=True)
        shutil.copyfile(self._place / DATABASE, self._server / DATABASE)
        for name in FILES:
            for path in (self._place / "files" / name).iterdir():
                if not (self._server / name / path.name).exists():
                    os.link(path, self._server / name / path.name)


@contextmanager
def only_one(output: Path) -> Iterator[None]:
    """Makes a simulation's directory, and keeps other simulations out of it until the end of the block: a
    second one would put back snapshots under the feet of the first. Raises UsageError."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(output, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"cannot write to {output}: {error.strerror}; name another --output") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise UsageError(
            f"another simulation is using {output}; wait for its end or name another --output"
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)
