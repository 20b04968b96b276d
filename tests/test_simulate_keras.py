"""`fedfer simulate --engine keras`: the same simulation, trained in TensorFlow."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import prepared
from exported import export_smooth
from prepared import in_tensorflow
from safetensors.numpy import load_file

SCENARIO = """
name = "tiny"
[model]
{model}
[data]
source = "drawn"
take = 24
[holdout]
source = "drawn"
skip = 24
take = 10
[partition]
scheme = "iid"
num_devices = 4
[run]
num_rounds = 2
[run.rounds]
num_clients = 3
batch_size = 3
learning_rate = 0.01
"""


def simulate(place: Path, model: str, *options: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The record and the final weights."""
    place.mkdir(exist_ok=True)
    (place / "tiny.toml").write_text(SCENARIO.format(model=model))
    command = [sys.executable, "-m", "fedfer.cli.main", "simulate", str(place / "tiny.toml")]
    done = prepared.run([*command, f"--output={place}", *options])
    assert done.returncode == 0, done.stdout + done.stderr
    record: dict[str, Any] = json.loads((place / "record.json").read_text())
    return record, load_file(place / "final.safetensors")


def furthest(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Of all tensors, relative to 0.1 a number at least."""
    return max(
        float(np.linalg.norm(one[name] - expected))
        / max(float(np.linalg.norm(expected)), 0.1 * float(np.sqrt(expected.size)))
        for name, expected in other.items()
    )


def test_in_tensorflow_and_by_the_file(tmp_path: Path) -> None:
    """Close to the phones' weights; the record says which engine; another number of processes changes no
    bit."""
    path = tmp_path / "smooth.tflite"
    in_tensorflow(export_smooth, path)
    model = f'path = "{path}"'
    engine = ("--engine=keras", f"--keras-model={path.with_suffix('.keras')}")
    phones, by_phones = simulate(tmp_path / "phones", model)
    record, trained = simulate(tmp_path / "keras", model, *engine)
    again, _ = simulate(tmp_path / "again", model, *engine, "--processes=1")
    assert (phones["engine"], record["engine"]) == ("tflite", "keras")
    assert record["final"]["weights"] == again["final"]["weights"] != phones["final"]["weights"]
    assert furthest(trained, by_phones) < 1e-4
    assert [done["accuracy"] for done in record["rounds"]] == [done["accuracy"] for done in phones["rounds"]]


def test_a_model_that_the_simulation_exports_needs_no_second_name(tmp_path: Path) -> None:
    model = 'source = "fedfer.model.mnist:fedavg_cnn"'
    data = ["--set=data.source='missing'", "--engine=keras"]
    (tmp_path / "tiny.toml").write_text(SCENARIO.format(model=model))
    command = [sys.executable, "-m", "fedfer.cli.main", "simulate", str(tmp_path / "tiny.toml"), *data]
    done = prepared.run(command)
    assert "missing" in done.stderr  # got as far as the images
    without = SCENARIO.format(model='path = "model.tflite"')
    (tmp_path / "tiny.toml").write_text(without)
    done = prepared.run(command)
    assert done.stderr.startswith("fedfer simulate: engine keras and Keras model None")
