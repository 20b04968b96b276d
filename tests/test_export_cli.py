"""`fedfer export` as a person runs it: the real network, a process of its own, the real file system."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from fedfer.cli.export import write_whole
from fedfer.export.contract import read_contract
from fedfer.export.flatbuffer import is_builtin_only, op_census
from fedfer.export.runtime import available_runtimes
from fedfer.model.errors import UsageError


def export(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fedfer.cli.main", "export", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_network_is_exported_checked_and_the_same_bytes_again(tmp_path: Path) -> None:
    digests = []
    for name in ("first.tflite", "second.tflite"):
        output = tmp_path / name
        done = export("--output", str(output), "--seed", "3", "--learning-rate", "0.01")
        assert (done.returncode, done.stderr) == (0, "")
        assert "converting vgg_fer, 5,102,791 parameters" in done.stdout
        assert done.stdout.endswith(f"wrote {output}, {output.stat().st_size:,} bytes\n")
        for runtime in available_runtimes():
            assert done.stdout.count(f"  ok   {runtime}") == 8
        assert "FAIL" not in done.stdout
        digests.append(hashlib.sha256(output.read_bytes()).hexdigest())
    assert digests[0] == digests[1]
    content = (tmp_path / "first.tflite").read_bytes()
    contract = read_contract(content)
    assert (contract.num_parameters, contract.training.learning_rate) == (5_102_791, 0.01)
    assert is_builtin_only(op_census(content))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dropout", "1.5"], "expected a dropout of at least 0 and below 1; received 1.5"),
        (["--learning-rate", "0"], "expected a learning rate above 0; received 0.0"),
        (["--learning-rate", "nan"], "expected a learning rate above 0; received nan"),
        (["--learning-rate", "inf"], "expected a learning rate above 0; received inf"),
    ],
)
def test_settings_that_do_not_fit(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = export("--output", str(tmp_path / "model.tflite"), *arguments)
    assert (done.returncode, done.stderr) == (1, f"fedfer export: {message}\n")
    assert list(tmp_path.iterdir()) == []


def test_output_is_whole_or_not_there(tmp_path: Path) -> None:
    output = tmp_path / "new" / "folder" / "model.tflite"
    for content in (b"first", b"second"):
        write_whole(output, content)
        assert output.read_bytes() == content
        assert list(output.parent.iterdir()) == [output]


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for output, reason in (
        (tmp_path / "file" / "model.tflite", "File exists"),  # its folder cannot be made
        (tmp_path / "folder", "Is a directory"),
        (Path(), "it names no file"),
    ):
        with pytest.raises(UsageError, match=f"cannot write {output}: {reason}; choose another --output"):
            write_whole(output, b"content")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]
