"""One FedAvg round of three phones through the whole system, against the same round by hand in Keras."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from keras_reference import export_named, train_in_keras
from server_helpers import serving

from fedfer.export.check import vector_difference
from fedfer.export.checkpoint import load_checkpoint
from fedfer.export.contract import read_contract
from fedfer.export.isolation import call_isolated
from fedfer.model.partition import partition
from fedfer.model.sources import load_images

LEARNING_RATE = 0.02
SEED = 3


@pytest.mark.parametrize(("model", "batch_size"), [("tiny", 2), ("vgg", 5)])
def test_a_round_equals_keras(tmp_path: Path, model: str, batch_size: int) -> None:
    """Real server, real sockets, real interpreter; dropout off. Shares of 5 images: with batches of 2 three
    steps each, the last of one image."""
    exported = tmp_path / "model.tflite"
    call_isolated(export_named, model, exported)
    settings = ["--rounds", "1", "--clients", "3", "--local-epochs", "1", "--batch-size", str(batch_size)]
    with serving(exported, tmp_path / "server", *settings, "--learning-rate", str(LEARNING_RATE)) as server:
        fleet = [sys.executable, "-m", "fedfer.cli.main", "devices", "--server", server.url, "--count", "3"]
        source = ["--data", "drawn", "--take", "15", "--partition", "contiguous", "--seed", str(SEED)]
        subprocess.run([*fleet, *source, "--cache-dir", str(tmp_path / "cache")], check=True, timeout=300)
        with server.client() as client:
            digest = client.get("/v1/rounds/1").json()["result_weights"]
            version = tmp_path / "version.safetensors"
            version.write_bytes(client.get(f"/v1/weights/{digest}").content)
    result = load_checkpoint(version, read_contract(exported))

    images = load_images("drawn", take=15)
    shares = [images.take(share) for share in partition(images.labels, 3, scheme="contiguous")]
    by_hand = call_isolated(train_in_keras, model, shares, LEARNING_RATE, batch_size, SEED)
    mean = {name: np.mean([weights[name] for weights in by_hand], axis=0) for name in by_hand[0]}
    difference = vector_difference(result, mean)
    print(f"{model}: {difference:.1e}")
    assert difference < 1e-4
