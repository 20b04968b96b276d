"""The benchmarks of the aggregator and of the harness run, on a model of a few weights, without Flower."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_every_part_of_fedfers_own(plain_tflite: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "aggregation.py"), "--model", str(plain_tflite)]
    no_flower = ["--flower-clients", "--flower-supernodes"]
    sizes = ["--clients", "2", *no_flower, "--rounds", "2", "--updates", "3", "7"]
    polling = ["--pollers", "5", "--polling-uploads", "4"]
    options = [*sizes, *polling, "--output", str(tmp_path / "out"), "--scratch", str(tmp_path)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    results = json.loads((tmp_path / "out" / "aggregation.json").read_text())
    (rounds,), (fold,), (polling_result,) = (results[name] for name in ("fedfer", "fold", "polling"))
    assert rounds["num_clients"] == 2
    assert rounds["updates_per_sec"] > 0
    assert rounds["peak_mb"] > 20
    assert fold["equal_ms"] > 0
    assert polling_result["num_asks"] >= 5
    assert [each["num_updates"] for each in results["memory"]] == [3, 7]
    assert (tmp_path / "out" / "aggregation.png").stat().st_size > 5000
    assert not list(tmp_path.glob("fedfer-bench-*"))


@pytest.mark.slow
def test_the_harness_beside_the_bare_interpreter(plain_tflite: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "harness.py")]
    models = ["--vgg", str(plain_tflite), "--mnist", str(plain_tflite), "--runtimes", "ai-edge-litert"]
    options = ["--turns", "1", "--rounds", "2", "--devices", "30", "--output", str(tmp_path)]
    done = subprocess.run([*command, *models, *options], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    results = json.loads((tmp_path / "harness.json").read_text())
    assert [row["steps"] for row in results["overhead"]] == [4 * 2, 10 * 60]
    for row in results["overhead"]:
        whole = row["training_sec"] + row["transfers_sec"]
        assert row["ratio"] * whole == pytest.approx(row["round_sec"])
    (fleet,) = results["thousand"]
    assert (fleet["num_devices"], fleet["num_processes"]) == (30, 2)
    assert 50 < fleet["peak_mb"] < fleet["resident_mb"]
    assert (tmp_path / "harness.png").stat().st_size > 5000
