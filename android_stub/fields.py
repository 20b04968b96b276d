"""Reading JSON from an untrusted server: every field with its type and range, or RefusedError `bad_reply`."""

import json
import re
from typing import Any

from fedfer.model.errors import RefusedError

_DIGEST = re.compile(r"[0-9a-f]{64}")
_RUN = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_WORD = re.compile(r"[A-Za-z0-9._~+/=-]{1,256}")


class Fields:
    """A JSON object whose fields are read with their type and range. Each reader raises RefusedError."""

    def __init__(self, data: bytes | dict[str, Any], status: int) -> None:
        """Raises RefusedError (`bad_reply`) unless `data` is one JSON object of finite numbers."""
        self._status = status
        try:
            body = json.loads(data, parse_constant=_no_constant) if isinstance(data, bytes) else data
        except (ValueError, RecursionError):
            raise self._bad("its body is not JSON") from None
        if not isinstance(body, dict):
            raise self._bad("its body is not a JSON object")
        self._body = body

    def object(self, name: str) -> "Fields":
        value = self._body.get(name)
        if not isinstance(value, dict):
            raise self._bad(f"`{name}` is not an object")
        return Fields(value, self._status)

    def text(self, name: str) -> str:
        value = self._body.get(name)
        if not isinstance(value, str):
            raise self._bad(f"`{name}` is not text")
        return value

    def optional_text(self, name: str) -> str | None:
        return None if self._body.get(name) is None else self.text(name)

    def flag(self, name: str) -> bool:
        value = self._body.get(name)
        if not isinstance(value, bool):
            raise self._bad(f"`{name}` is neither true nor false")
        return value

    def objects(self, name: str) -> "list[Fields]":
        value = self._body.get(name)
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self._bad(f"`{name}` is not a list of objects")
        return [Fields(item, self._status) for item in value]

    def digest(self, name: str) -> str:
        return self._matching(name, _DIGEST, "a sha256 in lower-case hex")

    def optional_digest(self, name: str) -> str | None:
        return None if self._body.get(name) is None else self.digest(name)

    def word(self, name: str) -> str:
        return self._matching(name, _WORD, "1 to 256 letters, digits or any of . _ ~ + / = -")

    def run(self, name: str) -> str:
        """The name of a run: it goes into paths."""
        return self._matching(name, _RUN, "1 to 40 of a-z, 0-9, - and _")

    def integer(self, name: str, low: int, high: int) -> int:
        value = self._body.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self._bad(f"`{name}` is not a whole number in {low}..{high}")
        return value

    def number(self, name: str, low: float, high: float) -> float:
        value = self._body.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise self._bad(f"`{name}` is not a number in {low:g}..{high:g}")
        return float(value)

    def optional_number(self, name: str, low: float, high: float) -> float | None:
        return None if self._body.get(name) is None else self.number(name, low, high)

    def length(self, name: str) -> int:
        value = self._body.get(name)
        if not isinstance(value, list):
            raise self._bad(f"`{name}` is not a list")
        return len(value)

    def unknown(self, name: str) -> RefusedError:
        """The error for a value of `name` that the protocol does not have."""
        return self._bad(f"`{name}` is none of those in docs/protocol.md")

    def _matching(self, name: str, pattern: re.Pattern[str], expected: str) -> str:
        value = self.text(name)
        if not pattern.fullmatch(value):
            raise self._bad(f"`{name}` is not {expected}")
        return value

    def _bad(self, why: str) -> RefusedError:
        return bad_reply(why, self._status)


def bad_reply(why: str, status: int) -> RefusedError:
    """The error for an answer that is not one of docs/protocol.md."""
    return RefusedError(
        f"the server's answer (HTTP {status}) cannot be used: {why}; "
        "expected a fedfer aggregator that speaks docs/protocol.md, version 1",
        code="bad_reply",
        status=status,
    )


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
