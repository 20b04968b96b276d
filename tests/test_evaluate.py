"""`fedfer evaluate` on a real exported model, against the same numbers worked out apart from it."""

import argparse
import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prepared import call_isolated

from fedfer.cli import evaluate as command
from fedfer.cli.table import format_table
from fedfer.export.checkpoint import checkpoint_bytes
from fedfer.export.evaluation import evaluate, evaluate_apart, parts
from fedfer.export.runtime import Model
from fedfer.model.data import LabelledImages
from fedfer.model.errors import CheckpointError, DataError, ModelFileError, UsageError
from fedfer.model.faces import draw_faces
from fedfer.model.labels import LABELS


def run_command(*arguments: str) -> str:
    """What `fedfer evaluate` prints (in a process that may load an interpreter)."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert command.run(parser.parse_args(arguments)) == 0
    return printed.getvalue()


def infer_one_at_a_time(model: Path, data: LabelledImages) -> list[list[float]]:
    loaded = Model(model)
    return [loaded.infer((image[None] / 255).astype(np.float32))[0].tolist() for image in data.images]


def write_checkpoint(model: Path, path: Path, bias: float) -> None:
    """The model's weights with all set to 0 and the last bias of class 3 to `bias`."""
    loaded = Model(model)
    weights = {name: np.zeros_like(value) for name, value in loaded.save().items()}
    last = loaded.contract.weights[-1].name
    assert weights[last].shape == (7,)
    weights[last][3] = bias
    path.write_bytes(checkpoint_bytes(weights, loaded.contract))


def test_json_is_what_single_images_give(tiny_tflite: Path) -> None:
    data = draw_faces(70, first=10, seed=2)  # 70: one whole batch of 64 and a smaller one
    found = json.loads(
        call_isolated(
            run_command,
            str(tiny_tflite),
            "--json",
            *["--data", "drawn", "--skip", "10", "--take", "70", "--data-seed", "2"],
        )
    )
    probabilities = np.array(call_isolated(infer_one_at_a_time, tiny_tflite, data))
    right = probabilities.argmax(axis=1) == data.labels
    losses = -np.log(probabilities[np.arange(70), data.labels])
    assert found["num_examples"] == 70
    assert found["accuracy"] == pytest.approx(right.mean())
    assert found["loss"] == pytest.approx(losses.mean(), rel=1e-5)
    assert np.array(found["confusion"]).sum(axis=1).tolist() == [10] * 7
    assert list(found["per_class_recall"]) == found["labels"]


def test_table_shows_a_checkpoints_measures(tiny_tflite: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "happy.safetensors"
    call_isolated(write_checkpoint, tiny_tflite, checkpoint, 2.0)
    arguments = [str(tiny_tflite), "--weights", str(checkpoint), *["--data", "drawn", "--take", "13"]]
    text = call_isolated(run_command, *arguments)
    lines = text.splitlines()
    # softmax of (0, 0, 0, 2, 0, 0, 0): e^2 / (e^2 + 6) = 0.552 for happy, 0.0747 for each other
    happy = int((draw_faces(13).labels == 3).sum())
    loss = (happy * 0.5943 + (13 - happy) * 2.5943) / 13
    assert lines[0] == f"13 images: loss {loss:.3f}, accuracy {happy / 13:.1%}"
    assert lines[2].split()[5:] == ["recall", *LABELS]
    assert [line.split()[3:] for line in lines[3:]] == [
        [".", ".", ".", line.split()[1], ".", ".", "."] for line in lines[3:]
    ]
    assert lines[6].split()[:3] == ["happy", str(happy), "100%"]


def call_evaluate(model: Path, weights: Path | None, data: LabelledImages) -> Any:
    return call_isolated(evaluate, model, weights, data)


def test_parts_are_whole_batches_and_few_for_few_images() -> None:
    assert parts(10_000, 2) == [slice(0, 78 * 64), slice(78 * 64, 10_000)]
    assert parts(10_000, 64)[-1] == slice(117 * 64, 10_000)  # never more than four
    assert parts(511, 8) == [slice(0, 511)]
    assert parts(513, 8) == [slice(0, 4 * 64), slice(4 * 64, 513)]
    assert parts(0, 8) == [slice(0, 0)]


def test_processes_change_no_number(tiny_tflite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    data = draw_faces(1000)
    assert [part.stop for part in parts(len(data), 3)] == [5 * 64, 10 * 64, 1000]
    assert evaluate_apart(tiny_tflite, None, data) == call_evaluate(tiny_tflite, None, data)


def test_refuses_what_does_not_fit(tiny_tflite: Path, tmp_path: Path) -> None:
    small = LabelledImages(np.zeros((2, 32, 32, 1), np.uint8), np.zeros(2, np.uint8))
    with pytest.raises(DataError, match=r"shape \(48, 48, 1\); received 2 of shape \(32, 32, 1\)"):
        call_evaluate(tiny_tflite, None, small)
    for call in (call_evaluate, evaluate_apart):
        with pytest.raises(DataError, match="received 0 of shape"):
            call(tiny_tflite, None, draw_faces(0))
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"{}")
    with pytest.raises(CheckpointError, match="expected a safetensors header"):
        call_evaluate(tiny_tflite, damaged, draw_faces(1))
    with pytest.raises(UsageError, match="say how many to take"):
        call_isolated(run_command, str(tiny_tflite), "--data", "drawn")


def test_a_file_that_was_cut_off_is_said_to_be_so_in_one_line(tiny_tflite: Path, tmp_path: Path) -> None:
    """Also where only the runtime misses the end, and says a page of it."""
    content = tiny_tflite.read_bytes()
    for missing in (2_000, len(content) // 2):
        (tmp_path / "cut.tflite").write_bytes(content[:-missing])
        with pytest.raises(
            ModelFileError, match=r"^damaged \.tflite file: its .* as when a copy was cut off"
        ):
            call_evaluate(tmp_path / "cut.tflite", None, draw_faces(1))


def test_table_columns() -> None:
    assert format_table(["name", "n"], [["a", "10"], ["longer", "2"]]) == "name     n\na       10\nlonger   2"
