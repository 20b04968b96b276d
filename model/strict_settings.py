"""Settings as they stand in a file or a request, made into a frozen dataclass; nothing is guessed."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar, cast, get_args, get_type_hints

from fedfer.model.errors import UsageError

MAX_NUMBER = 1e300
MAX_SHOWN_CHARS = 64  # of what somebody else wrote
T = TypeVar("T")


def from_mapping(kind: type[T], values: Mapping[str, object], owner: str) -> T:
    """An instance of the dataclass `kind`, whose fields are int, float, bool, str, or one of these or None.

    What is left out has its default. Raises UsageError, which names the `owner` ("strategy fedprox") and the
    key, for an unknown key or a value of another type; the dataclass itself refuses what is out of range.
    """
    hints = get_type_hints(kind)
    known = {field.name: hints[field.name] for field in fields(cast(Any, kind))}
    for key in values:
        if key not in known:
            names = ", ".join(known) or "none"
            raise UsageError(f"{owner} has no setting {shown(key)}; its settings: {names}")
    return kind(**{key: _typed(f"{owner}: {key}", values[key], known[key]) for key in values})


def shown(value: object) -> str:
    """Somebody else's words, cut to a length and without control characters."""
    return ascii(value)[:MAX_SHOWN_CHARS]


def _typed(name: str, value: object, hint: Any) -> object:
    """A number is no bool and not NaN; a whole number is taken for a float, not the other way round."""
    kinds = set(get_args(hint)) or {hint}
    if value is None and type(None) in kinds:
        return None
    if type(value) in kinds and type(value) is not float:
        return value
    if float in kinds and type(value) in (int, float) and -MAX_NUMBER < cast(float, value) < MAX_NUMBER:
        return float(cast(float, value))
    raise UsageError(f"{name} is {shown(value)}; expected {_expected(kinds)}")


def _expected(kinds: set[Any]) -> str:
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return " or ".join(word for kind, word in words.items() if kind in kinds)
