"""Losses in exported files, in every runtime, against Keras; their settings and class weights."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loss_cases import LossCase, all_cases
from numpy.typing import NDArray
from prepared import call_isolated, in_tensorflow

from fedfer.export.flatbuffer import is_builtin_only, op_census
from fedfer.export.loss_settings import (
    BINARY,
    DENSE,
    SPARSE,
    SQUARED,
    LossSettings,
    TargetSpec,
)
from fedfer.export.runtime import RUNTIMES, available_runtimes
from fedfer.export.targets import balanced_class_weights, encode_targets, read_class_weights
from fedfer.model.errors import DataError, UsageError

Arrays = dict[str, NDArray[Any]]
CASES = all_cases()


def build_losses(path: Path) -> dict[str, Arrays]:
    from loss_graphs import build

    return build(path)


def compiled_losses() -> dict[str, object]:
    from loss_graphs import compiled_with

    return compiled_with()


def run_losses(path: Path, runtime: str) -> dict[str, tuple[Arrays, float]]:
    """What each case gives, and the loss of its last example alone."""
    loaded = import_module(RUNTIMES[runtime]).Interpreter(str(path), num_threads=1)
    found = {}
    for case in CASES:
        run = loaded.get_signature_runner(case.name)
        alone = float(run(x=case.x[-1:], targets=case.targets[-1:])["loss"])
        found[case.name] = (run(x=case.x, targets=case.targets), alone)
    return found


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Arrays]]:
    path = tmp_path_factory.mktemp("losses") / "losses.tflite"
    return path, in_tensorflow(build_losses, path)


@pytest.fixture(scope="module", params=available_runtimes())
def observed(
    request: pytest.FixtureRequest, built: tuple[Path, dict[str, Arrays]]
) -> dict[str, tuple[Arrays, float]]:
    return call_isolated(run_losses, built[0], request.param)


def test_losses_are_builtin_only(built: tuple[Path, dict[str, Arrays]]) -> None:
    assert is_builtin_only(op_census(built[0].read_bytes()))


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_losses_and_gradients_are_keras(
    case: LossCase,
    built: tuple[Path, dict[str, Arrays]],
    observed: dict[str, tuple[Arrays, float]],
) -> None:
    expected, (found, _) = built[1][case.name], observed[case.name]
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-6)
    largest = np.abs(expected["gradient"]).max()
    np.testing.assert_allclose(found["gradient"], expected["gradient"], rtol=0, atol=1e-6 * largest)
    assert found["metric"] == pytest.approx(metric_by_hand(case, expected["outputs"]), rel=1e-6)


def metric_by_hand(case: LossCase, outputs: NDArray[np.float32]) -> float:
    if case.settings.name == SQUARED:
        return float(np.abs(outputs - case.targets).mean())
    if case.settings.name == BINARY:
        said = outputs > (0 if case.settings.from_logits else 0.5)
        return float((said == (case.targets.reshape(said.shape) > 0.5)).mean())
    right = case.targets if case.targets.ndim == 1 else case.targets.argmax(axis=1)
    return float((outputs.argmax(axis=1) == right).mean())


def test_the_mean_is_over_the_examples(observed: dict[str, tuple[Arrays, float]]) -> None:
    """-log p of the right class of the last example, alone and among six."""
    for case in CASES:
        if case.name in (
            "sparse_categorical_crossentropy_softmax",
            "sparse_categorical_crossentropy_nothing",
        ):
            z = case.x[-1].astype(np.float64)
            by_hand = np.log(np.exp(z).sum()) - z[case.targets[-1]]
            assert observed[case.name][1] == pytest.approx(by_hand, rel=1e-6)


def test_predictions(observed: dict[str, tuple[Arrays, float]]) -> None:
    for case in CASES:
        predictions = observed[case.name][0]["predictions"]
        if case.settings.name == SQUARED:
            np.testing.assert_array_equal(predictions, case.x)
            continue
        exclusive = case.settings.name != BINARY or case.x.shape[1] == 1
        assert predictions.shape == (len(case.x), max(2, case.x.shape[1]))
        assert predictions.min() >= 0
        assert predictions.max() <= 1
        if exclusive:
            np.testing.assert_allclose(predictions.sum(axis=1), 1, rtol=1e-6)


def test_a_softmax_is_not_applied_twice(observed: dict[str, tuple[Arrays, float]]) -> None:
    for case in CASES:
        if case.name.endswith("_of_logits"):
            usual = {"sparse": "sparse_categorical_crossentropy_softmax", "binary": "binary_sigmoid_1_0.0"}
            other = observed[usual[case.name.split("_")[0]]][0]["predictions"]
            np.testing.assert_array_equal(observed[case.name][0]["predictions"], other)


def test_what_a_compiled_model_says() -> None:
    said = in_tensorflow(compiled_losses)
    assert said["nothing"] is None
    assert said["short"] == LossSettings(SQUARED)
    assert said["name"] == LossSettings(SPARSE)
    assert said["function"] == LossSettings(BINARY)
    assert said["logits"] == LossSettings(SPARSE, from_logits=True)
    assert said["smoothed"] == LossSettings(DENSE, label_smoothing=0.25)
    assert said["in a list"] == said["by the output's name"] == LossSettings(SQUARED)
    assert str(said["weighed"]).startswith("the model was compiled with loss_weights, which phones do not")
    for word, name in (
        ("sum", "mean_squared_error"),
        ("ignoring", SPARSE),
        ("other", "huber_loss"),
        ("own", "<lambda>"),
    ):
        assert str(said[word]).startswith(
            f"the model's loss {name} cannot be exported; compile it with one of"
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "hinge"}, "loss 'hinge' cannot be trained on phones; expected one of"),
        ({"label_smoothing": 1.0}, "label smoothing of at least 0 and below 1; received 1.0"),
        ({"label_smoothing": float("nan")}, "received nan"),
        ({"class_weights": (1.0, 0.0)}, "class weights above 0; received"),
        ({"class_weights": (1.0, float("inf"))}, "class weights above 0; received"),
        ({"name": SQUARED, "from_logits": True}, "has no logits, label smoothing or class weights"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        LossSettings(**settings)
    assert message in str(raised.value)


def test_outputs_that_do_not_fit() -> None:
    with pytest.raises(UsageError, match="needs 2 outputs or more, the model has 1; use binary_crossentropy"):
        LossSettings().check_outputs(1)
    with pytest.raises(UsageError, match="3 class weights; expected 2, one a class"):
        LossSettings(BINARY, class_weights=(1, 2, 3)).check_outputs(1)
    with pytest.raises(UsageError, match="what to do with 4 yes-or-no outputs"):
        LossSettings(BINARY, class_weights=(1, 2, 3, 4)).check_outputs(4)
    LossSettings(class_weights=(1, 2)).check_outputs(2)
    LossSettings(BINARY, class_weights=(1, 2)).check_outputs(1)
    LossSettings(SQUARED).check_outputs(1)


def test_targets() -> None:
    labels = np.array([2, 0])
    assert LossSettings().target(3) == LossSettings(BINARY).target(1) == TargetSpec("labels", "int32", ())
    dense = LossSettings(DENSE).target(3)
    assert dense == LossSettings(BINARY).target(3) == LossSettings(SQUARED).target(3)
    assert dense == TargetSpec("targets", "float32", (3,))
    assert encode_targets(labels, LossSettings().target(3)).dtype == np.int32
    np.testing.assert_array_equal(encode_targets(labels, dense), np.array([[0, 0, 1], [1, 0, 0]]))
    numbers = np.array([[1.5, 2, 3]])
    assert encode_targets(numbers, dense).dtype == np.float32
    with pytest.raises(UsageError, match=r"targets \(1, 2\); expected \(B, 3\)"):
        encode_targets(numbers[:, :2], dense)


def test_balanced_weights_by_hand() -> None:
    assert balanced_class_weights(np.array([0, 0, 0, 1]), 2) == (4 / 6, 2.0)
    with pytest.raises(DataError, match=r"examples by class \[3, 0, 1\]; expected some of each of 3"):
        balanced_class_weights(np.array([0, 0, 0, 2]), 3)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=50))
def test_balanced_weights_make_classes_equal(more: list[int]) -> None:
    labels = np.array([0, 1, 2, 3, *more])
    weights = np.array(balanced_class_weights(labels, 4))
    shares = np.bincount(labels, weights[labels])
    np.testing.assert_allclose(shares, len(labels) / 4)


def test_class_weights_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.json"
    for body in ({"b": 2.5}, [1, 2.5]):
        path.write_text(json.dumps(body))
        assert read_class_weights(path, ("a", "b")) == (1.0, 2.5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "holds no class weights"),
        ('{"c": 1}', "no class is called 'c'; expected names among ['a', 'b']"),
        ("[1]", "a list of 2 numbers"),
        ('[1, "2"]', "expected numbers above 0"),
        ("[1, 0]", "expected numbers above 0"),
        ("[1, NaN]", "expected numbers above 0"),
        ("[1, true]", "expected numbers above 0"),
        ("[" * 100_000, "holds no class weights"),
        (" " * 2**20 + "[1, 1]", "longer than 1048576 bytes"),
    ],
)
def test_class_weights_that_are_none(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "weights.json"
    path.write_text(content)
    with pytest.raises(DataError) as raised:
        read_class_weights(path, ("a", "b"))
    assert message in str(raised.value)


def test_no_file_of_class_weights(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*No such file"):
        read_class_weights(tmp_path / "none.json", ("a", "b"))
