"""`fedfer inspect` over an export, over a stock `.tflite` and over what is no `.tflite`."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import prepared
import pytest
from prepared import in_tensorflow
from sabotage import write_flex_file

from fedfer.export.contract import METADATA_NAME, read_contract
from fedfer.export.flatbuffer import op_census


def inspect(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fedfer.cli.main", "inspect", *arguments]
    return prepared.run(command)


def test_text(tiny_tflite: Path) -> None:
    done = inspect(str(tiny_tflite))
    assert (done.returncode, done.stderr) == (0, "")
    content, contract = tiny_tflite.read_bytes(), read_contract(tiny_tflite)
    lines = done.stdout.splitlines()
    assert lines[0] == f"{tiny_tflite}: {len(content):,} bytes"
    assert lines[1] == f"sha256 {hashlib.sha256(content).hexdigest()}"
    for line in (
        "  train",
        "    inputs images: float32[B,48,48,1]",
        "    inputs labels: int32[B]",
        "    outputs loss: float32[1]",
        "    outputs probabilities: float32[B,7]",
        "    inputs ... and 10 more",  # 16 weights, of which 6 are shown
        f"contract {contract.digest}",
        "  model tiny, 16,007 parameters in 16 tensors (12 trainable, 4 statistics)",
        "  images [48, 48, 1], pixels divided by 255",
        "  labels angry, disgust, fear, happy, sad, surprise, neutral",
        "  training sparse_categorical_crossentropy, sgd, learning rate 0.02",
        f"  initial weights {contract.initial_weights}",
    ):
        assert line in [shown.replace("(48, 48, 1)", "[48, 48, 1]") for shown in lines]
    total = sum(op_census(content).values())
    assert f"operators ({total}, builtin only: runs in stock runtimes)" in lines


def test_json(tiny_tflite: Path) -> None:
    done = inspect(str(tiny_tflite), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    summary = json.loads(done.stdout)
    contract = read_contract(tiny_tflite)
    assert summary["size_bytes"] == tiny_tflite.stat().st_size
    assert summary["sha256"] == hashlib.sha256(tiny_tflite.read_bytes()).hexdigest()
    assert summary["builtin_only"] is True
    assert summary["num_parameters"] == contract.num_parameters
    assert summary["operators"] == op_census(tiny_tflite.read_bytes())
    assert {signature["name"] for signature in summary["signatures"]} == {"train", "infer", "save", "restore"}
    # the digest names exactly these fields: the same contract can be built again from what is shown
    body = summary["contract"]
    digest = body.pop("digest")
    canonical = json.dumps({"format": "fedfer.contract/2", **body}, sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(canonical.encode()).hexdigest() == digest == contract.digest


def test_stock_file_that_needs_flex(tmp_path: Path) -> None:
    path = tmp_path / "stock.tflite"
    in_tensorflow(write_flex_file, path)
    text, summary = inspect(str(path)), json.loads(inspect(str(path), "--json").stdout)
    assert text.returncode == 0
    assert "no fedfer contract: not made by `fedfer export`" in text.stdout
    assert "operators (1, NOT builtin only)" in text.stdout
    assert summary["contract"] is None
    assert summary["builtin_only"] is False
    assert summary["operators"] == {"CUSTOM:FlexMatrixInverse": 1}
    assert summary["signatures"][0]["outputs"] == [{"name": "y", "shape": [3, 3], "dtype": "float32"}]


@pytest.mark.parametrize("json_wanted", [[], ["--json"]])
def test_files_that_cannot_be_read(tmp_path: Path, tiny_tflite: Path, json_wanted: list[str]) -> None:
    """Each gives one line on stderr, nothing on stdout, exit code 1."""
    content = tiny_tflite.read_bytes()
    spoilt = content.replace(b'"fedfer.contract/2"', b'"fedfer.contract/9"')
    assert METADATA_NAME.encode() in spoilt
    files = {
        "picture.png": (b"\x89PNG\r\n\x1a\n" + bytes(100), "not a .tflite file"),
        "empty.tflite": (b"", "not a .tflite file"),
        "half.tflite": (
            content[: len(content) // 2],
            f"damaged .tflite file: its {len(content) // 2:,} bytes refer to places that are not in it",
        ),
        "other.tflite": (spoilt, "the file's contract cannot be read"),
    }
    for name, (data, message) in files.items():
        (tmp_path / name).write_bytes(data)
        done = inspect(str(tmp_path / name), *json_wanted)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"fedfer inspect: {message}")
        assert done.stderr.count("\n") == 1
    absent = inspect(str(tmp_path / "absent.tflite"), *json_wanted)
    assert (absent.returncode, absent.stderr.count("\n")) == (1, 1)
    assert "No such file" in absent.stderr
