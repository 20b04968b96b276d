"""`fedfer devices --engine keras` against `fedfer serve`: the same training as by the file, in TensorFlow."""

import sys
from pathlib import Path

import prepared
import pytest
from exported import save_tiny_keras
from fleet_process import fleet
from prepared import in_tensorflow
from server_helpers import serving
from waiting import PATIENCE_SEC

from fedfer.export.check import vector_difference
from fedfer.export.checkpoint import Weights, load_checkpoint
from fedfer.export.contract import read_contract

ROUNDS = ("--clients", "3", "--rounds", "2", "--local-epochs", "1", "--batch-size", "2")


@pytest.fixture(scope="module")
def tiny_keras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `tiny_tflite` was exported from."""
    path = tmp_path_factory.mktemp("keras") / "tiny.keras"
    in_tensorflow(save_tiny_keras, path, 0.3)
    return path


def train(model: Path, directory: Path, *options: str) -> tuple[str, Weights]:
    """Name and tensors of what a fleet leaves."""
    directory.mkdir()
    with (
        serving(model, directory / "data", *ROUNDS) as server,
        fleet(server.url, directory / "fleet", *options) as phones,
        server.client() as client,
    ):
        name = phones.final_weights()
        path = directory / "final.safetensors"
        path.write_bytes(client.get(f"/v1/weights/{name}").raise_for_status().content)
    return name, load_checkpoint(path, read_contract(model))


def test_a_fleet_in_tensorflow_trains_what_a_fleet_of_phones_trains(
    tiny_tflite: Path, tiny_keras: Path, tmp_path: Path
) -> None:
    """Two rounds, dropout on: close to the phones' weights, and the same bits over one process and two."""
    keras = ("--engine", "keras", "--keras-model", str(tiny_keras))
    _, phones = train(tiny_tflite, tmp_path / "phones")
    one, trained = train(tiny_tflite, tmp_path / "one", *keras, "--processes", "1")
    two, _ = train(tiny_tflite, tmp_path / "two", *keras, "--processes", "2")
    assert one == two
    assert vector_difference(trained, phones) < 1e-3
    assert one != train(tiny_tflite, tmp_path / "other", "--seed", "1")[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--engine", "keras"], "engine keras and Keras model None"),
        (["--keras-model", "a:b"], "engine tflite and Keras model a:b"),
    ],
)
def test_engine_and_keras_model_go_together(options: list[str], words: str) -> None:
    command = [sys.executable, "-m", "fedfer.cli.main", "devices", "--server", "http://127.0.0.1:9"]
    done = prepared.run([*command, "--count", "1", "--data", "drawn", *options])
    assert done.returncode == 1
    assert done.stderr.startswith(f"fedfer devices: {words}")
    assert done.stderr.count("\n") == 1


def test_another_keras_model_is_said_in_one_line(tiny_tflite: Path, tmp_path: Path) -> None:
    """The same network with another share of dropout."""
    other = tmp_path / "other.keras"
    in_tensorflow(save_tiny_keras, other, 0.5)
    with (
        serving(tiny_tflite, tmp_path / "data", *ROUNDS) as server,
        fleet(server.url, tmp_path / "fleet", "--engine", "keras", "--keras-model", str(other)) as phones,
    ):
        assert phones.process.wait(PATIENCE_SEC) == 1
        assert "does not train as the served model does" in phones.err
        assert phones.err.count("\n") == 1
