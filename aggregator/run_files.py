"""Runs as people and programs write them: TOML files, and JSON in the API and in the database.

    name = "faces"
    model = "model.tflite"            # relative to the file
    num_rounds = 20
    [rounds]
    num_clients = 10
    deadline_sec = 300.0
    [strategy]
    name = "fedavg"

The keys are the fields of `RunConfig`, `RunSettings` and `RoundSettings`; others are refused by name.
"""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fedfer.aggregator.config import RunConfig, RunSettings
from fedfer.model.errors import UsageError

MAX_FILE_BYTES = 1 << 20
_SETTINGS = TypeAdapter(RunSettings)
_FILE_KEYS = ("name", "model", "initial_weights")


def load_run(path: Path) -> RunConfig:
    """The run that a TOML file describes. Raises UsageError, which names the file and the key."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UsageError(f"{path} has more than {MAX_FILE_BYTES} bytes; expected the TOML of a run")
        body = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:  # also of UTF-8
        raise UsageError(f"{path} is not TOML: {error}") from None
    try:
        return _run_config(body, path.parent)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def parse_settings(body: Mapping[str, Any]) -> RunSettings:
    """Settings from plain data, as `settings_json` gives them. Raises UsageError naming the key."""
    try:
        return _SETTINGS.validate_json(json.dumps(dict(body), default=str))  # strict, but objects for classes
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(map(str, problem["loc"]))
        if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            raise UsageError(f"{key} is no setting of a run; see docs/protocol.md") from None
        raise UsageError(f"{key} is {ascii(problem['input'])[:80]}; {problem['msg']}") from None


def settings_json(settings: RunSettings) -> dict[str, Any]:
    """Plain data that JSON can hold, the whole of the settings."""
    return {**{k: v for k, v in vars(settings).items() if k not in _NESTED}, **_nested(settings)}


_NESTED = ("rounds", "holdout", "strategy")


def _nested(settings: RunSettings) -> dict[str, Any]:
    holdout = settings.holdout
    return {
        "rounds": asdict(settings.rounds),
        "holdout": None if holdout is None else asdict(holdout),
        "strategy": dict(settings.strategy),
    }


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
