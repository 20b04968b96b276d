"""Every error that fedfer raises on purpose, as one tree. Imports nothing of fedfer.

    FedferError                 a person can act on it: says what was expected, what came, what to do
    ├── UsageError              a command or function was called with settings that do not fit
    ├── DataError               a file of images or labels cannot be read as such
    ├── ModelFileError          a file is not a .tflite that fedfer exported, or is damaged
    ├── ExportError             a Keras model cannot be exported, or the exported file failed its check
    ├── InterpreterError        the .tflite runtime is missing, or refused the model
    ├── CheckpointError         bytes are not a checkpoint of the model at hand
    ├── RefusedError            the aggregator refuses a request (HTTP 4xx): carries the status
    ├── ServerUnreachableError  a device gave up on its aggregator after retrying
    └── StoreError              the aggregator's data directory or database cannot be used

`code` is a short word for programs (it is what HTTP replies carry); `str(error)` is for people.
"""

from collections.abc import Mapping
from typing import ClassVar


class FedferError(Exception):
    """Base of the tree. `code` is stable across releases; the message may change."""

    default_code: ClassVar[str] = "error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code or self.default_code


class UsageError(FedferError):
    default_code = "usage"


class DataError(FedferError):
    default_code = "bad_data"


class ModelFileError(FedferError):
    default_code = "bad_model_file"


class ExportError(FedferError):
    default_code = "export_failed"


class InterpreterError(FedferError):
    default_code = "interpreter_failed"


class CheckpointError(FedferError):
    """Codes: truncated, not_safetensors, wrong_model, wrong_names, wrong_shape, wrong_dtype,
    not_finite, out_of_range, too_large."""

    default_code = "bad_checkpoint"


class RefusedError(FedferError):
    """A request that the aggregator refuses; `status` is the HTTP status (4xx), `headers` go with it."""

    default_code = "refused"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        status: int = 400,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, code=code)
        self.status = status
        self.headers = dict(headers or {})


class ServerUnreachableError(FedferError):
    default_code = "server_unreachable"


class StoreError(FedferError):
    default_code = "store_failed"


def first_line(error: BaseException) -> str:
    """What somebody else's error says, in one line. Keras wraps what a layer raises into a page: of that,
    what was inside, and where."""
    plain = str(error).replace("\x1b[1m", "").replace("\x1b[0m", "")
    lines = [line.strip() for line in plain.splitlines() if line.strip()] or [type(error).__name__]
    wrapped = lines[0].startswith("Exception encountered when calling") and len(lines) > 1
    return (f"{lines[1]} (in {lines[0].split()[-1].rstrip('.')})" if wrapped else lines[0])[:300]
