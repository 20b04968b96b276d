"""Runs as people and programs write them: TOML files, and JSON in the API and in the database.

    name = "faces"
    model = "model.tflite"            # relative to the file
    num_rounds = 20
    [rounds]
    num_clients = 10
    deadline_sec = 300.0
    [strategy]
    name = "fedavg"

The keys are the fields of `RunConfig`, `RunSettings`, `RoundSettings` and the other parts of the settings
([holdout], [stopping], [gates], [retention]); others are refused by name.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from fedfer.aggregator.config import HoldoutSource, RoundSettings, RunConfig, RunSettings
from fedfer.aggregator.gates import GateSettings
from fedfer.aggregator.retention import RetentionSettings
from fedfer.aggregator.stopping import StoppingSettings
from fedfer.aggregator.strategies.base import settings_of
from fedfer.aggregator.strategies.registry import make_strategy
from fedfer.model.errors import UsageError
from fedfer.model.strict_settings import from_mapping, shown

MAX_FILE_BYTES = 1 << 20
_PARTS: dict[str, type[Any]] = {
    "rounds": RoundSettings,
    "holdout": HoldoutSource,
    "stopping": StoppingSettings,
    "gates": GateSettings,
    "retention": RetentionSettings,
}
_FILE_KEYS = ("name", "model", "initial_weights")


def load_run(path: Path) -> RunConfig:
    """The run that a TOML file describes. Raises UsageError, which names the file and the key."""
    body = read_run_file(path)
    try:
        return _run_config(body, path.parent)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def read_run_file(path: Path) -> dict[str, Any]:
    """What a file says, whatever that is. Raises UsageError if it is no TOML."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UsageError(f"{path} has more than {MAX_FILE_BYTES} bytes; expected the TOML of a run")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:  # also of UTF-8
        raise UsageError(f"{path} is not TOML: {error}") from None


def parse_settings(body: Mapping[str, Any]) -> RunSettings:
    """Settings from plain data, as `settings_json` gives them. Raises UsageError naming the key."""
    parts = {key: _part(key, body[key]) for key in body if key in _PARTS and body[key] is not None}
    if body.get("strategy") is not None:
        parts["strategy"] = settings_of(make_strategy(_mapping("strategy", body["strategy"])))
    plain = {key: value for key, value in body.items() if key not in (*_PARTS, "strategy")}
    return replace(from_mapping(RunSettings, plain, "run"), **parts)


def settings_json(settings: RunSettings) -> dict[str, Any]:
    """Plain data that JSON can hold, the whole of the settings."""
    plain = {key: value for key, value in vars(settings).items() if key not in (*_PARTS, "strategy")}
    parts = {key: getattr(settings, key) for key in _PARTS}
    return {
        **plain,
        **{key: None if part is None else asdict(part) for key, part in parts.items()},
        "strategy": dict(settings.strategy),
    }


def _part(key: str, value: object) -> Any:
    return from_mapping(_PARTS[key], _mapping(key, value), key)


def _mapping(key: str, value: object) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise UsageError(f"{key} is {shown(value)}; expected settings by name")
    return value


def _run_config(body: dict[str, Any], folder: Path) -> RunConfig:
    given = {key: body.pop(key) for key in _FILE_KEYS if key in body}
    for key in ("name", "model"):
        if key not in given:
            raise UsageError(f"{key} is missing")
    for key, value in given.items():
        if not isinstance(value, str) or not value:
            raise UsageError(f"{key} is {ascii(value)[:80]}; expected text")
    initial = given.get("initial_weights")
    return RunConfig(
        model=folder / given["model"],
        name=given["name"],
        initial_weights=None if initial is None else folder / initial,
        settings=parse_settings(body),
    )
