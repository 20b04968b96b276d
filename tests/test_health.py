"""Readiness: checks by name, asked no more often than needed; the disk and files as they really are."""

import hashlib
import os
from pathlib import Path

import pytest

from fedfer.aggregator.health import FRESH_SEC, FileCheck, Health, check_disk, free_bytes
from fedfer.model.errors import StoreError


def test_every_problem_is_told_by_its_name_and_goes_away() -> None:
    now, broken = [0.0], {"disk": "full", "database": "locked"}

    def check(name: str) -> None:
        if name in broken:
            raise StoreError(broken[name])

    health = Health({name: lambda n=name: check(n) for name in ("disk", "database", "files")}, lambda: now[0])  # type: ignore[misc]
    assert health.readiness().problems == {"disk": "full", "database": "locked"}
    broken.clear()
    now[0] += FRESH_SEC / 2
    assert not health.readiness().is_ready
    now[0] += FRESH_SEC
    assert health.readiness().is_ready


def test_who_waited_for_slow_checks_takes_their_answer() -> None:
    now, runs = [0.0], []

    def slow() -> None:
        runs.append(now[0])
        now[0] += 10 * FRESH_SEC

    health = Health({"slow": slow}, lambda: now[0])
    assert health.readiness() is health.readiness()
    assert len(runs) == 1


def test_a_bug_in_a_check_is_not_hidden() -> None:
    def bug() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Health({"x": bug}, lambda: 0.0).readiness()


def test_the_disk(tmp_path: Path) -> None:
    check_disk(tmp_path, tmp_path / "probe", 1000)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StoreError, match=r"bytes free; expected at least \d+: make room"):
        check_disk(tmp_path, tmp_path / "probe", free_bytes(tmp_path))
    with pytest.raises(StoreError, match=r"cannot write to .*: No such file"):
        check_disk(tmp_path, tmp_path / "none" / "probe", 1000)


def test_files(tmp_path: Path) -> None:
    path, files = tmp_path / "file", FileCheck()
    path.write_bytes(b"content" * 1_000_000)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    files.check(path, digest)
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"X")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    with pytest.raises(StoreError, match="is damaged: its sha256 is"):
        files.check(path, digest)
    path.unlink()
    with pytest.raises(StoreError, match=r"cannot read .*: No such file"):
        files.check(path, digest)
    path.write_bytes(b"content" * 1_000_000)
    files.check(path, digest)
