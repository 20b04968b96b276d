"""Strategies by name: from settings as they stand in a file or a request to a strategy, strictly."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, cast

from fedfer.aggregator.strategies.base import Strategy
from fedfer.aggregator.strategies.fedavg import FedAvg
from fedfer.aggregator.strategies.fedprox import FedProx
from fedfer.model.errors import UsageError

STRATEGIES: dict[str, type[Any]] = {kind.name: kind for kind in (FedAvg, FedProx)}
MAX_NUMBER = 1e300
MAX_SHOWN_CHARS = 64  # of what somebody else wrote


def make_strategy(settings: Mapping[str, object]) -> Strategy:
    """The strategy of `{"name": "fedprox", "proximal_mu": 0.1}`; settings left out have their defaults.

    Raises UsageError, which names what is unknown, of another type, or out of range.
    """
    name = settings.get("name")
    kind = STRATEGIES.get(name) if isinstance(name, str) else None
    if kind is None:
        raise UsageError(f"strategy {_shown(name)} is unknown; expected one of {', '.join(STRATEGIES)}")
    defaults = {field.name: field.default for field in fields(kind)}
    given = {key: value for key, value in settings.items() if key != "name"}
    for key, value in given.items():
        if key not in defaults:
            known = ", ".join(defaults) or "none"
            raise UsageError(f"strategy {name} has no setting {_shown(key)}; its settings: {known}")
        given[key] = _typed(f"{name}'s {key}", value, defaults[key])
    strategy: Strategy = kind(**given)
    return strategy


def settings_of(strategy: Strategy) -> dict[str, object]:
    """All settings, defaults too, as JSON-able data that `make_strategy` takes."""
    return {"name": strategy.name, **asdict(strategy)}  # type: ignore[call-overload]


def _typed(name: str, value: object, default: object) -> object:
    """The value as the type of its default: a number is no bool, not NaN, and a whole one where it counts."""
    if isinstance(default, int):
        if type(value) is int:
            return value
        raise UsageError(f"{name} is {_shown(value)}; expected a whole number")
    if default is None and value is None:
        return None
    if type(value) in (int, float) and -MAX_NUMBER < cast(float, value) < MAX_NUMBER:
        return float(cast(float, value))
    raise UsageError(f"{name} is {_shown(value)}; expected a number")


def _shown(value: object) -> str:
    return ascii(value)[:MAX_SHOWN_CHARS]
