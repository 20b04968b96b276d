"""Keys: made, read, refused and compared; none of them is ever shown."""

import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fedfer.aggregator.keys import Key, Keyring, bearer, new_token, token_sha256
from fedfer.cli.key_files import ENROL_VARIABLE, read_key, write_new_key
from fedfer.model.errors import RefusedError, UsageError

STRONG = "a-Strong_key.0123456789"
OTHER = "another-Key/9876543210"


def silent(text: str) -> None:
    raise AssertionError(text)


def refusal_of(check: Callable[[str], None], authorization: str) -> tuple[int, str]:
    with pytest.raises(RefusedError) as caught:
        check(authorization)
    assert STRONG not in str(caught.value)
    return caught.value.status, caught.value.code


def test_new_keys_are_private_strong_and_different(tmp_path: Path) -> None:
    files = [tmp_path / "a.key", tmp_path / "b.key"]
    command = [sys.executable, "-m", "fedfer.cli.main", "keys", "new", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    keys = [read_key(path, ENROL_VARIABLE, {}, silent) for path in files]
    assert [stat.S_IMODE(path.stat().st_mode) for path in files] == [0o600] * 2
    assert len({*keys}) == 2
    assert all(key and len(key) == 43 and key not in done.stdout + done.stderr for key in keys)
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 1
    assert again.stderr.count("\n") == 1
    assert "keys are not overwritten" in again.stderr
    assert read_key(files[0], ENROL_VARIABLE, {}, silent) == keys[0]


def test_a_key_comes_from_the_file_then_from_the_environment(tmp_path: Path) -> None:
    path, environ = tmp_path / "k", {ENROL_VARIABLE: OTHER}
    write_new_key(path)
    path.write_text(f"  {STRONG}\n\n")
    assert read_key(path, ENROL_VARIABLE, environ, silent) == STRONG
    assert read_key(None, ENROL_VARIABLE, environ, silent) == OTHER
    assert read_key(None, ENROL_VARIABLE, {}, silent) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "0 characters; expected 16 to 1024"),
        ("short-Key-12345", "15 characters"),
        ("x" * 1025, "expected 16 to 1024"),
        ("two words are not one key", "spaces"),
        ("line-one-of-it-0\nline-two-of-it-1", "spaces"),
        ("schl\u00fcssel-0123456789", "not ASCII"),
        ("a-key-with-\x00-0123456", "not ASCII"),
        ("aaaaaaaaaaaaaaaabbbb", "2 different characters"),
    ],
)
def test_weak_keys_are_refused_and_not_shown(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "weak.key"
    path.touch(0o600)
    path.write_bytes(text.encode())
    for given, environ in ((path, {}), (None, {ENROL_VARIABLE: text})):
        with pytest.raises(UsageError, match=words) as caught:
            read_key(given, ENROL_VARIABLE, environ, silent)
        assert len(text) < 2 or text not in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path, words in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(UsageError, match=words):
            read_key(path, ENROL_VARIABLE, {}, silent)
    with pytest.raises(UsageError, match="cannot write"):
        write_new_key(tmp_path / "none" / "a.key")


@pytest.mark.parametrize(("mode", "warned"), [(0o600, 0), (0o400, 0), (0o640, 1), (0o604, 1), (0o602, 1)])
def test_a_file_that_others_can_read(tmp_path: Path, mode: int, warned: int) -> None:
    path, warnings = tmp_path / "k", list[str]()
    path.write_text(STRONG)
    path.chmod(mode)
    assert read_key(path, ENROL_VARIABLE, {}, warnings.append) == STRONG
    assert [f"chmod 600 {path}" in warning for warning in warnings] == [True] * warned


def test_keys_and_tokens_match_only_themselves() -> None:
    key = Key.of(STRONG)
    assert key.matches(STRONG)
    assert not any(key.matches(text) for text in ("", STRONG[:-1], STRONG + "x", STRONG.swapcase(), "\ud800"))
    assert STRONG not in repr(key)
    assert "digest" not in repr(Keyring(enrol=key))
    tokens = {new_token() for _ in range(50)}
    assert len({token_sha256(token) for token in tokens}) == 50
    assert token_sha256("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_bearer() -> None:
    assert [bearer(text) for text in ("Bearer abc", "bearer  abc ", "BEARER abc")] == ["abc"] * 3
    assert [bearer(text) for text in ("", "abc", "Basic abc", "Bearer", "Bearerabc")] == [""] * 5


def test_keyring() -> None:
    keyring = Keyring(enrol=Key.of(STRONG), admin=Key.of(OTHER))
    keyring.check_enrolment(f"Bearer {STRONG}")
    keyring.check_admin(f"Bearer {OTHER}")
    for wrong in ("", STRONG, f"Basic {STRONG}", f"Bearer {OTHER}", f"Bearer {STRONG}x"):
        assert refusal_of(keyring.check_enrolment, wrong) == (401, "bad_enrol_key")
    assert keyring.is_admin(f"Bearer {OTHER}")
    assert not Keyring().is_admin("Bearer ")
    for wrong in ("", OTHER, f"Bearer {STRONG}"):
        assert not keyring.is_admin(wrong)
        assert refusal_of(keyring.check_admin, wrong) == (401, "bad_admin_key")


def test_without_keys_anybody_enrols_and_nobody_is_the_admin() -> None:
    Keyring().check_enrolment("")
    for given in ("", "Bearer ", f"Bearer {STRONG}"):
        assert refusal_of(Keyring().check_admin, given) == (403, "admin_disabled")
