"""What a killed device goes on from: kept whole whenever it is killed, ignored when it is not of this task,
and the same bits in the end."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optimizer_runs import Case, export_cases, without_state_signatures
from prepared import call_isolated, in_tensorflow
from progress_runs import (
    SHAPES,
    TASK,
    Killed,
    filled,
    kill_writers,
    steps_kept_slowly,
    train,
    train_as_planned,
)

from fedfer.android_stub.progress import CHECKSUM, HEADER, PAGE_BYTES, Position, Progress
from fedfer.android_stub.simulation.dying import Killing
from fedfer.android_stub.trainer import Seeds, TrainingPlan, task_name
from fedfer.export.check import same_bits
from fedfer.export.optimizer_settings import OPTIMIZERS
from fedfer.export.runtime import available_runtimes
from fedfer.model.data import LabelledImages
from fedfer.model.errors import InterpreterError, UsageError

CONTENT_BYTES = 4 * (300 * 41 + 1 + 7)  # SHAPES


def position(step: int) -> Position:
    return Position(step, 0.1 * step, 0.2 * step, 0.3 * step)


def test_the_newest_step_is_found_by_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "progress"
    with Progress(path, TASK, SHAPES) as progress:
        assert progress.last() is None
        for step in (1, 2, 3):
            progress.keep(position(step), filled(step))
    with Progress(path, TASK, SHAPES) as progress:
        kept = progress.last()
        assert kept is not None
        assert kept[0] == position(3)
        assert list(kept[1]) == list(SHAPES)
        assert same_bits(kept[1], filled(3))
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_size == 2 * (PAGE_BYTES + 53248)  # 49,232 bytes of content, in whole pages


def test_what_another_task_left_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "progress"
    with Progress(path, TASK, SHAPES) as progress:
        progress.keep(position(9), filled(9))
    with Progress(path, bytes(32), SHAPES) as other:
        assert other.last() is None
        other.keep(position(2), filled(2))
    with Progress(path, bytes(32), SHAPES) as other:
        kept = other.last()
        assert kept is not None
        assert kept[0].step == 2


def test_another_model_in_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "progress"
    for shapes in (SHAPES, {"kernel": (2,)}, SHAPES):
        with Progress(path, TASK, shapes) as progress:
            assert progress.last() is None
            progress.keep(position(1), {name: np.ones(shape, np.float32) for name, shape in shapes.items()})
            assert progress.last() is not None


@given(place=st.integers(0, 50_000), bit=st.integers(0, 7))
def test_what_was_not_written_whole_is_no_step(
    place: int, bit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """One bit of the newest step, in its header or its content, is another: the one before counts."""
    path = tmp_path_factory.mktemp("torn") / "progress"
    with Progress(path, TASK, SHAPES) as progress:
        for step in (1, 2):
            progress.keep(position(step), filled(step))
    header_bytes = HEADER.size + CHECKSUM.size
    content = bytearray(path.read_bytes())
    content[place if place < header_bytes else PAGE_BYTES + place % CONTENT_BYTES] ^= 1 << bit  # the second
    path.write_bytes(content)
    with Progress(path, TASK, SHAPES) as progress:
        kept = progress.last()
        assert kept is not None
        assert kept[0] == position(1)
        assert same_bits(kept[1], filled(1))


def test_pages_that_were_never_written_are_no_step(tmp_path: Path) -> None:
    """As after a power cut: the header is there, a page of the content is still what it was, or zeros."""
    path = tmp_path / "progress"
    for page in (np.zeros(PAGE_BYTES, np.uint8), np.full(PAGE_BYTES // 4, 1.0, np.float32).view(np.uint8)):
        with Progress(path, TASK, SHAPES) as progress:
            for step in (3, 4):
                progress.keep(position(step), filled(step))
        with path.open("r+b") as file:
            file.seek(3 * PAGE_BYTES)
            file.write(page.tobytes())
        with Progress(path, TASK, SHAPES) as progress:
            kept = progress.last()
            assert kept is not None
            assert kept[0] == position(3)


def test_a_process_killed_while_it_writes_leaves_a_whole_step(tmp_path: Path) -> None:
    """SIGKILL at 40 random moments: what is found is the last step that was said to be kept, or the next."""
    kills = call_isolated(kill_writers, tmp_path, 40)
    assert all(whole for _, _, whole in kills)
    assert all(found - said in (0, 1) for said, found, _ in kills)
    assert max(said for said, _, _ in kills) > 10


def test_a_full_disk_and_a_directory_that_is_not_there_are_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot keep progress in .*nowhere.*: No such file"):
        Progress(tmp_path / "nowhere" / "progress", TASK, SHAPES)
    if not os.access("/dev/full", os.W_OK):
        pytest.skip("no /dev/full here")
    with pytest.raises(UsageError, match="cannot keep progress in /dev/full"):
        Progress(Path("/dev/full"), TASK, SHAPES)


def test_a_task_is_named_by_all_that_decides_its_weights() -> None:
    images, labels = np.zeros((2, 4, 4, 1), np.uint8), np.zeros(2, np.uint8)
    examples = LabelledImages(images, labels)
    plan, seeds = TrainingPlan(1, 2, 0.1), Seeds(1, 2, 3)
    names = {
        task_name("m", "r", "b", plan, seeds, examples),
        task_name("n", "r", "b", plan, seeds, examples),
        task_name("m", "s", "b", plan, seeds, examples),
        task_name("m", "r", "c", plan, seeds, examples),
        task_name("m", "r", "b", TrainingPlan(2, 2, 0.1), seeds, examples),
        task_name("m", "r", "b", TrainingPlan(1, 2, 0.1, proximal_mu=0.5), seeds, examples),
        task_name("m", "r", "b", plan, Seeds(1, 2, 4), examples),
        task_name("m", "r", "b", plan, seeds, LabelledImages(images + np.uint8(1), labels)),
        task_name("m", "r", "b", plan, seeds, LabelledImages(images, labels + np.uint8(1))),
        task_name("m", "r", "b", plan, seeds, LabelledImages(images.reshape(2, 2, 8, 1), labels)),
    }
    assert len(names) == 10
    assert task_name("m", "r", "b", plan, seeds, examples) in names


# --- real training, really killed

MODELS = {
    "momentum": Case(OPTIMIZERS["momentum"], 0.02),
    "adam": Case(OPTIMIZERS["adam"], 0.02),
    "fedprox": Case(OPTIMIZERS["sgd"], 0.02, proximal=True),
}


@pytest.fixture(scope="module")
def models(tiny_tflite: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """SGD with BatchNorm and dropout, and small ones that remember more than their weights."""
    folder = tmp_path_factory.mktemp("remembering")
    in_tensorflow(export_cases, folder, list(MODELS.values()))
    return {"sgd": tiny_tflite} | {name: folder / f"{i}.tflite" for i, name in enumerate(MODELS)}


@pytest.mark.parametrize("runtime", available_runtimes())
@pytest.mark.parametrize("name", ["sgd", *MODELS])
def test_killed_twice_in_the_middle_of_a_step_the_weights_are_the_same(
    name: str, runtime: str, models: dict[str, Path], tmp_path: Path
) -> None:
    mu = 0.5 if name == "fedprox" else 0.0
    alone = Killed(models[name], runtime, tmp_path / "alone", proximal_mu=mu)
    weights, loss, accuracy, num_steps, resumed_at = call_isolated(train, alone)
    assert (num_steps, resumed_at) == (36, 0)  # 6 epochs of 23 images in batches of 4
    for kill_after in (8, 15):
        with pytest.raises(InterpreterError, match="exit code -9"):
            call_isolated(train, Killed(models[name], runtime, tmp_path / "killed", kill_after, mu))
    last = Killed(models[name], runtime, tmp_path / "killed", proximal_mu=mu)
    again, *measures, _, resumed_at = call_isolated(train, last)
    assert resumed_at == 15
    assert same_bits(again, weights)
    assert measures == [loss, accuracy]


def test_a_planned_death_comes_once(models: dict[str, Path], tmp_path: Path) -> None:
    """Also of a model that cannot be gone on with, whose training is begun again."""
    older = tmp_path / "older.tflite"
    call_isolated(without_state_signatures, models["adam"], older)
    weights, _ = call_isolated(train_as_planned, models["adam"], None)
    for path, least in ((models["adam"], 10), (older, 0)):
        killing = Killing(10, tmp_path / f"{path.name}.progress")
        with pytest.raises(InterpreterError, match="exit code -9"):
            call_isolated(train_as_planned, path, killing)
        again, resumed_at = call_isolated(train_as_planned, path, killing)
        assert same_bits(again, weights)
        assert resumed_at >= least
        assert least or resumed_at == 0


def test_where_keeping_is_dear_few_steps_are_kept(models: dict[str, Path], tmp_path: Path) -> None:
    """The first and the last always; steps of a millisecond in between are not worth 50 each."""
    kept = call_isolated(steps_kept_slowly, models["momentum"], tmp_path / "progress")
    assert (kept[0], kept[-1]) == (1, 36)
    assert len(kept) < 18


def test_a_task_that_was_done_is_not_done_again(models: dict[str, Path], tmp_path: Path) -> None:
    case = Killed(models["adam"], "auto", tmp_path / "progress")
    weights, *_ = call_isolated(train, case)
    again, *_, num_steps, resumed_at = call_isolated(train, case)
    assert same_bits(again, weights)
    assert resumed_at == num_steps == 36
