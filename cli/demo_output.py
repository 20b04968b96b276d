"""The demo's output directory: where each result lies, and clearing away those of an earlier demo."""

import shutil
from pathlib import Path

from fedfer.model.errors import UsageError

MARKER = ".fedfer-demo"  # tells a directory that a demo made from one that happens to hold files


class DemoOutput:
    """Paths of the results in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.curves = directory / "curves.png"
        self.rounds_csv = directory / "rounds.csv"
        self.rounds_json = directory / "rounds.json"
        self.model = directory / "model.tflite"
        self.final = directory / "final.safetensors"
        self.server_data = directory / "server"
        self.logs = directory / "logs"

    def prepare(self) -> None:
        """An empty place for every result. Raises UsageError for a directory with files of another origin."""
        marker = self.directory / MARKER
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            if not marker.exists() and any(self.directory.iterdir()):
                raise UsageError(
                    f"{self.directory} holds files that are not an earlier demo's; choose another --output"
                )
            marker.touch()
            for file in (self.curves, self.rounds_csv, self.rounds_json, self.model, self.final):
                file.unlink(missing_ok=True)
            for folder in (self.server_data, self.logs):
                if folder.exists():
                    shutil.rmtree(folder)
                folder.mkdir()
        except OSError as error:
            raise UsageError(f"cannot write to {self.directory}: {error.strerror}") from None

    def describe(self) -> str:
        """What lies where, a line each."""
        contents = [
            (self.curves, "accuracy and loss by round"),
            (self.rounds_csv, "the same numbers, a row for each phone and round"),
            (self.rounds_json, "the same with the settings and the final measures"),
            (self.model, "the exported network, as phones run it"),
            (self.final, "the final weights"),
            (self.server_data, "the aggregator's data"),
            (self.logs, "what export, server and phones printed"),
        ]
        width = max(len(str(path)) for path, _ in contents)
        return "\n".join(f"{str(path).ljust(width)}  {what}" for path, what in contents)
