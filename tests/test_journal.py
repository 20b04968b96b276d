"""Snapshots of a simulation beside an aggregator's directory."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from unittest.mock import patch

import pytest

from fedfer.android_stub.simulation.journal import DATABASE, FILES, Journal, only_one
from fedfer.model.errors import UsageError


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """A directory with a database and two files of each kind."""
    directory = tmp_path / "server"
    for name in FILES:
        (directory / name).mkdir(parents=True)
        for letter in "ab":
            (directory / name / letter).write_text(f"{name} {letter}")
    with closing(sqlite3.connect(directory / DATABASE)) as database:
        database.execute("CREATE TABLE versions (weights)")
    return directory


def test_what_was_kept_is_put_back(server: Path, tmp_path: Path) -> None:
    kept = Journal(tmp_path, server, {"seed": 1})
    kept.keep(lambda: {"round": 3})
    (server / "versions" / "a").unlink()
    (server / "versions" / "c").write_text("versions c")
    assert kept.find() == {"round": 3}
    kept.put_back()
    assert (server / "versions" / "a").read_text() == "versions a"


def test_who_is_killed_while_a_snapshot_takes_the_last_one_s_place(server: Path, tmp_path: Path) -> None:
    """The last one is there, whole, until the next one is; a kill comes as soon as it has been moved away."""
    kept = Journal(tmp_path, server, {"seed": 1})
    kept.keep(lambda: {"round": 3})

    class KilledError(Exception):
        pass

    rename = Path.rename

    def rename_and_die(path: Path, to: Path) -> Path:
        rename(path, to)
        raise KilledError

    again = Journal(tmp_path, server, {"seed": 1})
    with patch.object(Path, "rename", rename_and_die), pytest.raises(KilledError):
        again.keep(lambda: {"round": 4})
    third = Journal(tmp_path, server, {"seed": 1})
    assert third.find() == {"round": 3}
    third.put_back()
    third.keep(lambda: {"round": 4})
    assert third.find() == {"round": 4}
    assert not list(tmp_path.glob("snapshot.*"))


def test_one_simulation_at_a_time_in_a_directory(tmp_path: Path) -> None:
    used = r"another simulation is using .*out; wait for its end or name another"
    with only_one(tmp_path / "out"), only_one(tmp_path / "other"):
        second = only_one(tmp_path / "out")
        with pytest.raises(UsageError, match=used):
            second.__enter__()
    with only_one(tmp_path / "out"):
        pass


def test_a_version_that_is_deleted_meanwhile(
    server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the commit of a round, the aggregator deletes what its retention rule no longer keeps."""
    link = os.link

    def delete_and_link(path: Path, to: Path) -> None:
        if path.parent.name == "versions" and path.name == "a":
            path.unlink()
        link(path, to)

    monkeypatch.setattr(os, "link", delete_and_link)
    kept = Journal(tmp_path, server, {"seed": 1})
    kept.keep(lambda: {"round": 3})
    assert kept.find() == {"round": 3}
    places = sorted((tmp_path / "snapshot" / "files").glob("*/*"))
    assert [str(place.relative_to(tmp_path / "snapshot" / "files")) for place in places] == [
        "models/a",
        "models/b",
        "states/a",
        "states/b",
        "versions/b",
    ]
