"""What `fedfer serve --show-config` prints, and what is checked of it though nothing is opened.

A run of a file has settings of its own: they stand below the options, as comments that are a run file
themselves once the leading `# ` is taken away. Models, images, the database and the bucket are not looked at.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from fedfer.aggregator.config import RunConfig, ServerConfig
from fedfer.cli.key_files import ADMIN_VARIABLE, ENROL_VARIABLE
from fedfer.cli.settings import SOURCE_DEFAULT, Setting, describe

SOURCE_STRATEGY = "the strategy"


def check(config: ServerConfig) -> None:
    """Raises UsageError for settings that a server would refuse only when it opens its runs and files."""
    from fedfer.aggregator.round_opening import opening_settings

    for run in config.runs:
        opening_settings(run.settings)
    if config.weights_url is not None:
        from fedfer.aggregator.opening import bucket_url

        bucket_url(config.weights_url)


def shown(
    settings: Mapping[str, Setting], of_files: Iterable[tuple[Path, RunConfig]], environ: Mapping[str, str]
) -> str:
    """Every setting with where it came from: the options, which keys there are, the runs of files."""
    keys = [name for name in (ENROL_VARIABLE, ADMIN_VARIABLE) if name in environ]
    parts = [describe(settings), *(f"# {name} = ***  # environment" for name in keys)]
    for path, run in of_files:
        title = f"{path}: the run {run.name}; of the options above, those on how to train are not for it"
        lines = [title, *describe(run_settings(path, run)).split("\n")]
        parts += ["", *(f"# {line}" for line in lines)]
    return "\n".join(parts)


def run_settings(path: Path, run: RunConfig) -> dict[str, Setting]:
    """All settings of a file's run by their keys in it (`rounds.num_clients`), as its rounds are opened with.

    Raises UsageError.
    """
    from fedfer.aggregator.round_opening import opening_settings
    from fedfer.aggregator.run_files import read_run_file, settings_json

    files = {"name": run.name, "model": run.model, "initial_weights": run.initial_weights}
    given = _flat(read_run_file(path))
    wanted = _flat(files | settings_json(run.settings))
    opened = replace(run.settings, rounds=opening_settings(run.settings))
    found = {}
    for key, value in _flat(files | settings_json(opened)).items():
        source = str(path) if key in given else SOURCE_DEFAULT
        found[key] = Setting(key, value, source if value == wanted[key] else SOURCE_STRATEGY)
    return found


def _flat(body: Mapping[str, object]) -> dict[str, object]:
    """Plain settings first, as in a file, then those of the parts, by dotted keys."""
    plain = {key: value for key, value in body.items() if not isinstance(value, Mapping)}
    parts = {key: value for key, value in body.items() if isinstance(value, Mapping)}
    return plain | {f"{part}.{key}": value for part, values in parts.items() for key, value in values.items()}
