"""A running `fedfer devices` with three phones, for tests."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import prepared
from waiting import PATIENCE_SEC


class Fleet:
    """A running `fedfer devices` with three phones of five images; its output is in files."""

    def __init__(self, url: str, directory: Path, *options: str) -> None:
        directory.mkdir()
        self.directory = directory
        self._out, self._err = directory / "out", directory / "err"
        command = [*prepared.COMMAND, "devices", "--server", url, "--count", "3"]
        images = ["--data", "drawn", "--examples-per-device", "5"]
        (directory / "tmp").mkdir()
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = prepared.start(
                [*command, *images, *options],
                stdout=out,
                stderr=err,
                start_new_session=True,
                env={**os.environ, "TMPDIR": str(directory / "tmp")},
            )

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def final_weights(self) -> str:
        """Waits for the end, which has to be a good one."""
        assert self.process.wait(PATIENCE_SEC) == 0, self.out + self.err
        assert self.err == ""
        found = re.search(r"^final weights ([0-9a-f]{64})$", self.out, re.MULTILINE)
        assert found is not None, self.out
        return found[1]


@contextmanager
def fleet(url: str, directory: Path, *options: str) -> Iterator[Fleet]:
    """A fleet that is gone at the end."""
    running = Fleet(url, directory, *options)
    try:
        yield running
    finally:
        with running.process:
            running.process.kill()
