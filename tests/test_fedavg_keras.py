"""One FedAvg round of three phones through the whole system, against the same round by hand in Keras.

The VGG takes a tenth of the usual learning rate. Its first steps are ill-conditioned: rounding decides single
ReLUs and maxima, and Keras's own weights after one step at 0.02 move by up to 1e-3 when its input changes by
1e-7 (docs/log.md). At 0.002 the steps are the same and their noise a tenth.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from keras_reference import export_named, train_in_keras
from prepared import in_tensorflow
from server_helpers import serving

from fedfer.export.check import vector_difference
from fedfer.export.checkpoint import load_checkpoint
from fedfer.export.contract import read_contract
from fedfer.model.partition import partition
from fedfer.model.partition_settings import PartitionSettings
from fedfer.model.sources import load_images

SEED = 3


@pytest.mark.parametrize(
    ("model", "num_images", "batch_size", "learning_rate"), [("tiny", 24, 3, 0.02), ("vgg", 15, 5, 0.002)]
)
def test_a_round_equals_keras(
    tmp_path: Path, model: str, num_images: int, batch_size: int, learning_rate: float
) -> None:
    """Real server, real sockets, real interpreter; dropout off. The tiny model's phones take batches of 3, 3
    and 2 images, the VGG's one of 5."""
    exported = tmp_path / "model.tflite"
    in_tensorflow(export_named, model, exported)
    settings = ["--rounds", "1", "--clients", "3", "--local-epochs", "1", "--batch-size", str(batch_size)]
    with serving(exported, tmp_path / "server", *settings, "--learning-rate", str(learning_rate)) as server:
        fleet = [sys.executable, "-m", "fedfer.cli.main", "devices", "--server", server.url, "--count", "3"]
        source = ["--data", "drawn", "--take", str(num_images), "--partition", "contiguous"]
        storage = ["--seed", str(SEED), "--cache-dir", str(tmp_path / "cache")]
        subprocess.run([*fleet, *source, *storage], check=True, timeout=300, stdout=subprocess.DEVNULL)
        with server.client() as client:
            digest = client.get("/v1/runs/default/rounds/1").json()["result_weights"]
            version = tmp_path / "version.safetensors"
            version.write_bytes(client.get(f"/v1/weights/{digest}").content)
    result = load_checkpoint(version, read_contract(exported))

    images = load_images("drawn", take=num_images)
    shares = [images.take(share) for share in partition(images.labels, 3, PartitionSettings())]
    by_hand = in_tensorflow(train_in_keras, model, shares, learning_rate, batch_size, SEED)
    mean = {name: np.mean([weights[name] for weights in by_hand], axis=0) for name in by_hand[0]}
    difference = vector_difference(result, mean)
    print(f"{model}: {difference:.1e} relative")
    assert difference < 1e-4
    assert vector_difference(by_hand[0], mean) > 1e-3  # training moved the weights far more than that
