"""Keys on the operator's and the device's side: made strong, written private, read with suspicion.

A key comes from a file, or from an environment variable when no file is named. It is never on a command
line, where everybody on the machine can read it.
"""

import os
import secrets
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from fedfer.model.errors import UsageError

ENROL_VARIABLE = "FEDFER_ENROL_KEY"
ADMIN_VARIABLE = "FEDFER_ADMIN_KEY"
MIN_KEY_BYTES = 16
MAX_KEY_BYTES = 1024
NEW_KEY_BYTES = 32  # random ones


def write_new_key(path: Path) -> None:
    """Makes a key and a file for it that only its owner can read. Raises UsageError, also if it exists."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise UsageError(
            f"{path} exists; expected the name of a new file, keys are not overwritten"
        ) from None
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_urlsafe(NEW_KEY_BYTES) + "\n")


def read_key(
    path: Path | None, variable: str, environ: Mapping[str, str], warn: Callable[[str], None]
) -> str | None:
    """The key in the file, else in the environment, else None. `warn` is told if others can read the file.

    Raises UsageError, which never shows any of the key.
    """
    if path is not None:
        return _checked(_read(path, warn), str(path))
    if variable in environ:
        return _checked(environ[variable], f"the environment's {variable}")
    return None


def _read(path: Path, warn: Callable[[str], None]) -> str:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(MAX_KEY_BYTES + 2)
    except OSError as error:
        raise UsageError(f"cannot read the key in {path}: {error.strerror}") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO) & ~(stat.S_IXGRP | stat.S_IXOTH):
        warn(f"others can read or change the key in {path} (mode {stat.S_IMODE(mode):o}): chmod 600 {path}")
    return data.decode("ascii", errors="replace")


def _checked(text: str, place: str) -> str:
    key = text.strip()
    if not MIN_KEY_BYTES <= len(key) <= MAX_KEY_BYTES:
        raise UsageError(
            f"the key in {place} has {len(key)} characters; expected {MIN_KEY_BYTES} to {MAX_KEY_BYTES}: "
            "make one with `fedfer keys new FILE`"
        )
    if not all("!" <= char <= "~" for char in key):
        raise UsageError(
            f"the key in {place} holds spaces, or characters that are not ASCII; "
            "expected letters, digits and signs, on one line"
        )
    if len(set(key)) < MIN_KEY_BYTES // 2:
        raise UsageError(
            f"the key in {place} is made of {len(set(key))} different characters, which can be guessed: "
            "make one with `fedfer keys new FILE`"
        )
    return key
