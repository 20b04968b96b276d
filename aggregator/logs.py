"""Logging of the server: one line an event, as text for people or JSON for programs.

A call names what an event is about in `extra` (`about(run=..., round=..., device=...)`); JSON lines carry
these as fields. Both forms mask what must not be in a log: the passwords of URLs and bearer tokens. Line
breaks and other control characters are escaped, so that nothing from the network can forge a line.
"""

import json
import logging
import re
import time
from typing import Any, Literal, TextIO

LogFormat = Literal["text", "json"]
LOG_FORMATS: tuple[LogFormat, ...] = ("text", "json")
FIELDS = ("run", "round", "device", "code")
_PASSWORD = re.compile(r"(?<=://)([^/:@\s]*):([^/@\s]+)@")
_BEARER = re.compile(r"(?i)(bearer\s+)[\w~+/.=-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def about(
    *, run: str | None = None, round: int | None = None, device: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """The `extra` of a log call: the run, the round's number, the device's id, a refusal's code."""
    given = {"run": run, "round": round, "device": device, "code": code}
    return {name: value for name, value in given.items() if value is not None}


def set_up(form: LogFormat, stream: TextIO) -> None:
    """Sends the log of the `fedfer` loggers to the stream, from INFO on."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logger = logging.getLogger("fedfer")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def masked(text: str) -> str:
    """The text with passwords of URLs and bearer tokens as ***."""
    return _BEARER.sub(r"\1***", _PASSWORD.sub(r"\1:***@", text))


class TextFormatter(logging.Formatter):
    """`2026-01-31 12:00:00,123 INFO message`, and a traceback below it for bugs."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = _escaped(masked(record.message))
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        return masked(super().formatException(ei))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC, RFC 3339), level, message, FIELDS if known, traceback for bugs."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": masked(record.getMessage()),
        }
        line |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        if record.exc_info:
            line["traceback"] = masked(self.formatException(record.exc_info))
        return json.dumps(line)


def _escaped(text: str) -> str:
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
