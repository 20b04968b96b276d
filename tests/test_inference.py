"""Inference-only files: what they compute, in every runtime, how large they are, and the command."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import prepared
import pytest
from inference_runs import export_recurrent, export_small, infer_rows, infer_small
from numpy.typing import NDArray
from prepared import call_isolated, in_tensorflow
from trainer_helpers import first_checkpoint

from fedfer.export.flatbuffer import is_builtin_only, op_census, signatures
from fedfer.export.inference_card import METADATA_NAME, InferenceCard, read_card
from fedfer.export.runtime import available_runtimes
from fedfer.model.errors import ModelFileError

TOLERANCES = {"float32": 1e-5, "float16": 5e-3, "int8": 0.05}  # of probabilities
Made = tuple[Path, NDArray[np.float32]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("inference")
    return folder, in_tensorflow(export_small, folder)


@pytest.mark.parametrize("runtime", available_runtimes())
@pytest.mark.parametrize("precision", TOLERANCES)
def test_probabilities_are_keras(made: Made, runtime: str, precision: str) -> None:
    """Of 40 images at once, and of one."""
    folder, expected = made
    observed = call_isolated(infer_small, folder / f"{precision}.tflite", runtime, 40)
    assert np.abs(observed - expected).max() < TOLERANCES[precision]
    assert np.mean(observed.argmax(axis=1) == expected.argmax(axis=1)) > 0.9
    assert call_isolated(infer_small, folder / f"{precision}.tflite", runtime, 1).shape == (1, 7)


def test_recurrent_networks(tmp_path: Path) -> None:
    """Laid out step by step here too: the converter has no builtin op for Keras's loops."""
    expected = in_tensorflow(export_recurrent, tmp_path)
    for precision, tolerance in TOLERANCES.items():
        assert is_builtin_only(op_census((tmp_path / f"{precision}.tflite").read_bytes()))
        for runtime in available_runtimes():
            for count in (40, 1):
                observed = call_isolated(infer_rows, tmp_path / f"{precision}.tflite", runtime, count)
                assert np.abs(observed - expected[:count]).max() < tolerance, (precision, runtime)


def test_files_are_small_and_only_infer(made: Made) -> None:
    sizes = {precision: (made[0] / f"{precision}.tflite").stat().st_size for precision in TOLERANCES}
    assert sizes["int8"] < 0.5 * sizes["float32"]
    assert sizes["float16"] < 0.7 * sizes["float32"]
    for precision in TOLERANCES:
        content = (made[0] / f"{precision}.tflite").read_bytes()
        assert [signature.name for signature in signatures(content)] == ["infer"]
        assert is_builtin_only(op_census(content))
        card = read_card(content)
        assert card is not None
        assert (card.precision, card.labels[0], card.image_shape) == (precision, "angry", (48, 48, 1))


def test_int8_convolutions_are_int8(made: Made) -> None:
    """Images and probabilities stay float32: one QUANTIZE in front, one DEQUANTIZE at the end."""
    census = op_census((made[0] / "int8.tflite").read_bytes())
    assert (census["QUANTIZE"], census["DEQUANTIZE"], census["CONV_2D"]) == (1, 1, 2)


def test_a_training_file_is_none(tiny_tflite: Path) -> None:
    assert read_card(tiny_tflite.read_bytes()) is None
    with pytest.raises(ModelFileError, match="expected one made by `fedfer inference`"):
        call_isolated(infer_small, tiny_tflite, "auto", 1)


@pytest.mark.parametrize(
    "change",
    [
        *({"labels": []}, {"labels": ["\x1b[2J"]}, {"image_shape": [1, 2, 3, 4]}, {"precision": "int4"}),
        *({"pixel_divisor": 0.0}, {"pixel_divisor": "255"}, {"owner": "me"}, {"model_name": 7}),
        *({"image_shape": []}, {"image_shape": [0]}, {"input_type": "int8"}, {"input_type": None}),
    ],
    ids=str,
)
def test_hostile_cards_are_refused(made: Made, change: dict[str, object]) -> None:
    content = (made[0] / "float32.tflite").read_bytes()
    card = read_card(content)
    assert isinstance(card, InferenceCard)
    old = card.to_json()
    new = json.dumps({**json.loads(old), **change}, sort_keys=True).encode()
    if len(new) > len(old):
        new = new.replace(b', "', b',"').replace(b'": ', b'":')
    spoilt = content.replace(old, new.ljust(len(old)))
    assert len(spoilt) == len(content)
    with pytest.raises(ModelFileError, match=f"{METADATA_NAME} entry cannot be read"):
        read_card(spoilt)


def inference(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fedfer.cli.main", "inference", "keras_models:tiny_model", *arguments]
    return prepared.run(command, cwd=Path(__file__).parent)


def test_the_command_measures_both(tiny_tflite: Path, tmp_path: Path) -> None:
    checkpoint, output = tmp_path / "w.safetensors", tmp_path / "small.tflite"
    checkpoint.write_bytes(call_isolated(first_checkpoint, tiny_tflite))
    data = ["--data", "drawn", "--take", "60", "--calibrate", "20"]
    done = inference("--weights-from", str(checkpoint), "--output", str(output), *data)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "measured on 40 images"
    assert [line.split()[0] for line in lines[1:4]] == ["precision", "float32", "int8"]
    assert lines[-1] == f"wrote {output}, {output.stat().st_size:,} bytes"
    refused = inference("--weights-from", str(checkpoint), *data[:-1], "60", "--output", str(output))
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "expected --calibrate of at least 1 and below the 60 images" in refused.stderr
