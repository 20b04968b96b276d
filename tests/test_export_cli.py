"""`fedfer export` as a person runs it: the real network, a process of its own, the real file system."""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import prepared
import pytest
from prepared import in_tensorflow

from fedfer.cli.export import write_whole
from fedfer.export.contract import read_contract
from fedfer.export.flatbuffer import is_builtin_only, op_census
from fedfer.export.loss_settings import LossSettings
from fedfer.export.optimizer_settings import OptimizerSettings
from fedfer.export.runtime import available_runtimes
from fedfer.model.errors import UsageError


def export(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run in this folder, so that `keras_models:function` is found."""
    command = [sys.executable, "-m", "fedfer.cli.main", "export", *arguments]
    here = Path(__file__).parent
    return prepared.run(command, cwd=here)


@pytest.mark.slow
def test_the_network_is_exported_checked_and_the_same_bytes_again(tmp_path: Path) -> None:
    digests = []
    for name in ("first.tflite", "second.tflite"):
        output = tmp_path / name
        done = export("--output", str(output), "--seed", "3", "--learning-rate", "0.01")
        assert (done.returncode, done.stderr) == (0, "")
        assert "converting vgg_fer, 5,102,791 parameters" in done.stdout
        assert done.stdout.endswith(f"wrote {output}, {output.stat().st_size:,} bytes\n")
        for runtime in available_runtimes():
            assert done.stdout.count(f"  ok   {runtime}") == 8
        assert "FAIL" not in done.stdout
        digests.append(hashlib.sha256(output.read_bytes()).hexdigest())
    assert digests[0] == digests[1]
    content = (tmp_path / "first.tflite").read_bytes()
    contract = read_contract(content)
    assert (contract.num_parameters, contract.training.learning_rate) == (5_102_791, 0.01)
    assert is_builtin_only(op_census(content))
    assert len(content) <= 20_700_000  # of which the weights are 20,411,164


@pytest.mark.slow
def test_the_network_in_float16_and_its_head_alone(tmp_path: Path) -> None:
    half, head = tmp_path / "half.tflite", tmp_path / "head.tflite"
    assert export("--output", str(half), "--weights", "float16").returncode == 0
    assert half.stat().st_size <= 10_400_000
    assert export("--output", str(head), "--trainable", "head").returncode == 0
    contract = read_contract(head)
    assert (contract.num_parameters, contract.num_frozen) == (410_887, 4_691_904)


def test_training_as_the_model_was_compiled(tmp_path: Path) -> None:
    """Options go before what the model says, one by one."""
    output = tmp_path / "model.tflite"
    assert export("keras_models:compiled_model", "--output", str(output)).returncode == 0
    training = read_contract(output).training
    assert training.learning_rate == pytest.approx(0.25)
    assert training.optimizer == OptimizerSettings("adamw", beta_1=0.5, weight_decay=0.125, clip_norm=2.0)
    assert training.loss == LossSettings("categorical_crossentropy", label_smoothing=0.25)
    options = ["--optimizer", "nesterov", "--momentum", "0.5", "--proximal", "--learning-rate", "0.5"]
    assert export("keras_models:compiled_model", "--output", str(output), *options).returncode == 0
    training = read_contract(output).training
    assert (training.learning_rate, training.proximal) == (0.5, True)
    assert training.optimizer == OptimizerSettings(momentum=0.5, nesterov=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dropout", "1.5"], "expected a dropout of at least 0 and below 1; received 1.5"),
        (["--learning-rate", "0"], "expected a learning rate above 0; received 0.0"),
        (["--momentum", "1"], "these settings cannot be: momentum is not at least 0 and below 1"),
        (["--optimizer", "adam", "--momentum", "0.5"], "these settings cannot be: momentum is for sgd"),
        (["--epsilon", "0.001"], "these settings cannot be: --epsilon is for adam and adamw, not for sgd"),
        (["--clip-norm", "0"], "these settings cannot be: clip_norm is not above 0"),
        (["--learning-rate", "nan"], "expected a learning rate above 0; received nan"),
        (["--learning-rate", "inf"], "expected a learning rate above 0; received inf"),
    ],
)
def test_settings_that_do_not_fit(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = export("--output", str(tmp_path / "model.tflite"), *arguments)
    assert (done.returncode, done.stderr) == (1, f"fedfer export: {message}\n")
    assert list(tmp_path.iterdir()) == []


def test_output_is_whole_or_not_there(tmp_path: Path) -> None:
    output = tmp_path / "new" / "folder" / "model.tflite"
    for content in (b"first", b"second"):
        write_whole(output, content)
        assert output.read_bytes() == content
        assert list(output.parent.iterdir()) == [output]


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for output, reason in (
        (tmp_path / "file" / "model.tflite", "File exists"),  # its folder cannot be made
        (tmp_path / "folder", "Is a directory"),
        (Path(), "it names no file"),
    ):
        with pytest.raises(UsageError, match=f"cannot write {output}: {reason}; choose another --output"):
            write_whole(output, b"content")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


def save_skip_model(path: Path) -> None:
    """For a process of its own."""
    from keras_models import small_skip_model

    small_skip_model().save(path)


def test_another_model_by_function_and_by_file(tmp_path: Path) -> None:
    by_function, by_file, saved = (tmp_path / name for name in ("a.tflite", "b.tflite", "m.keras"))
    done = export("keras_models:small_skip_model", "--labels", "a,b,c,d", "--output", str(by_function))
    assert (done.returncode, done.stderr) == (0, "")
    contract = read_contract(by_function)
    assert (contract.image_shape, contract.labels) == ((16, 16, 3), ("a", "b", "c", "d"))
    assert is_builtin_only(op_census(by_function.read_bytes()))

    in_tensorflow(save_skip_model, saved)
    assert export(str(saved), "--output", str(by_file)).returncode == 0
    assert read_contract(by_file).labels == ("0", "1", "2", "3")
    assert [w.name for w in read_contract(by_file).weights] == [w.name for w in contract.weights]


def test_an_inverted_residual_block(tmp_path: Path) -> None:
    done = export("keras_models:mobile_model", "--output", str(tmp_path / "mobile.tflite"))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("keras_models:logits_model", "(Dense) ends the model without an activation, and sparse_categorical"),
        ("keras_models:unsupported_model", "UpSampling2D): interpolation 'bicubic' has no operator"),
        ("keras_models:rolling_model", "needs operators that phones lack: Roll; replace the layers that"),
        (
            "keras_models:model_with_other_optimizer",
            "the model's optimizer is RMSprop; expected SGD, Adam or",
        ),
        ("keras_models:not_a_model", "gives str; expected a Keras model with an input shape"),
        ("keras_models:nothing", "keras_models has no function nothing; expected one that returns"),
        ("no_such_module:build", "cannot import no_such_module: No module named 'no_such_module'"),
        (".relative:build", "'.relative:build' is no model; expected FILE.keras or package.module:function"),
        (
            "keras_models:failing_model",
            "keras_models:failing_model, called without arguments, raised ValueError: no data (",
        ),
        ("keras_models:exiting_model", "called without arguments, raised SystemExit: 3 ("),
        ("keras_models:model_of_size", "raised TypeError: model_of_size() missing 1 required positional"),
        ("keras_models:looping_model", "cannot train a loop: its gradient needs a stack of unknown depth;"),
        ("keras_models:rolled_between_layers", "Roll; replace them among its functions of keras.ops: Roll"),
        ("keras_models:raising_layer_model", "cannot convert the model: only for images (in Raising.call())"),
        ("keras_models:unknown_weights_model", "weights ['dense/kernel'] hold NaN or infinity; expected"),
        ("keras_models:fixed_batch_model", "input shape (4, 6) fixes the size of a batch; give keras.Input"),
        ("keras_models:frozen_model", "nothing of the model would train: all of its layers are frozen (d)"),
        ("nonsense", "'nonsense' is no model; expected FILE.keras or package.module:function"),
        ("missing.keras", "no file missing.keras; expected a model saved by"),
    ],
)
def test_what_is_no_model_or_cannot_be_exported(tmp_path: Path, model: str, message: str) -> None:
    done = export(model, "--output", str(tmp_path / "model.tflite"))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_module_that_fails(tmp_path: Path) -> None:
    """Where in it is said; not that the module is missing, when it lacks another one."""
    output = tmp_path / "model.tflite"
    for name, code, message in (
        ("fails_at_once", "x = 1\n1 / 0\n", "ZeroDivisionError: division by zero ("),
        ("no_python", "def build(:\n", "SyntaxError: invalid syntax (no_python.py, line 1)"),
        ("lacks_one", "import no_such_package\n", "'no_such_package'; install what lacks_one needs"),
    ):
        (tmp_path / f"{name}.py").write_text(code)
        command = [sys.executable, "-m", "fedfer.cli.main", "export", f"{name}:build", "--output"]
        done = prepared.run([*command, str(output)], cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert done.stderr.startswith(f"fedfer export: cannot import {name}: ")
        assert message in done.stderr


@pytest.mark.parametrize("part", ["config.json", "model.weights.h5"])
def test_a_keras_file_that_unpacks_to_more_than_fits(tmp_path: Path, part: str) -> None:
    """A few thousand bytes of zeros, said to be billions."""
    bomb = tmp_path / "bomb.keras"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(part, bytes(100_000))
    size = {"config.json": 2**26 + 1, "model.weights.h5": 2**31 + 1}[part]
    packed = bomb.read_bytes()
    bomb.write_bytes(packed.replace((100_000).to_bytes(4, "little"), size.to_bytes(4, "little")))
    done = export(str(bomb), "--output", str(tmp_path / "model.tflite"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "is no model to export: " in done.stderr
    assert f" {size:,} bytes; expected at most" in done.stderr


def save_with_code(folder: Path) -> None:
    """For a process of its own: one model with a layer of somebody's own, one with a function."""
    import keras
    from keras_models import Raising, _around

    _around(Raising()).save(folder / "layer.keras")
    _around(keras.layers.Lambda(lambda x: x * 2.0)).save(folder / "function.keras")


def test_no_code_is_taken_from_a_keras_file(tmp_path: Path) -> None:
    """Not even of a class that can be imported from where the command runs."""
    in_tensorflow(save_with_code, tmp_path)
    for name, what in (("layer", "class 'Raising'"), ("function", "a Lambda layer of Python code")):
        saved = tmp_path / f"{name}.keras"
        done = export(str(saved), "--output", str(tmp_path / "model.tflite"))
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert f"Keras cannot load {saved}: {what} is not Keras's own, and no code is taken" in done.stderr


def test_a_damaged_keras_file(tmp_path: Path) -> None:
    damaged = tmp_path / "m.keras"
    damaged.write_bytes(b"PK no archive")
    done = export(str(damaged), "--output", str(tmp_path / "model.tflite"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "Keras cannot load" in done.stderr
