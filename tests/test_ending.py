"""Models that end in logits where probabilities are wanted are refused, whatever numbers they give."""

from pathlib import Path

import prepared
from prepared import in_tensorflow

BUILD = """
import keras

def one_unit():
    keras.utils.set_random_seed(0)
    half = keras.initializers.Constant(0.5)
    last = keras.layers.Dense(1, name="last", kernel_initializer="zeros", bias_initializer=half)
    model = keras.Sequential([keras.Input((4,)), last], name="m")
    model.compile("sgd", "binary_crossentropy")
    return model
"""


def build() -> tuple[dict[str, str], ...]:
    from ending_models import all_said

    return all_said()


def test_by_the_layer_that_ends_the_model() -> None:
    logits, from_logits, probabilities, regressor = in_tensorflow(build)
    for name, said in logits.items():
        assert said.startswith("layer last ("), name
        assert " ends the model without an activation, and " in said
        assert "; say --from-logits (in Keras from_logits=True), or end the model in a s" in said
    assert "binary_crossentropy takes probabilities" in logits["one unit"]
    assert logits["one unit"].endswith("end the model in a sigmoid")
    assert logits["classes"].endswith("end the model in a softmax")
    for passed in (from_logits, probabilities, regressor):
        assert set(passed.values()) == {""}, passed


def build_shapes() -> dict[str, str]:
    from ending_models import shapes_said

    return shapes_said()


def test_outputs_of_other_shapes_have_a_way_out() -> None:
    said = in_tensorflow(build_shapes)
    assert said["steps"] == (
        "output shape (None, 6, 3); expected (None, 3), one a label, not at each place; put Flatten or "
        "GlobalAveragePooling1D before the last layer"
    )
    assert said["pixels"].endswith("put Flatten or GlobalAveragePooling2D before the last layer")
    assert said["two answers"].startswith(
        "output shape (None, 2); expected (None, 1): with 2 labels binary_crossentropy takes one output, "
        "which tells them apart, and two answers of their own cannot be exported (three can); end the "
    )


def test_outputs_that_look_like_probabilities_are_refused_in_one_line(tmp_path: Path) -> None:
    """Each is 0.5 here."""
    (tmp_path / "one.py").write_text(BUILD)
    for command, more in (("export", ()), ("train", ("--data=rows.npz",))):
        if command == "train":
            write_rows(tmp_path / "rows.npz")
        done = prepared.run([*prepared.COMMAND, command, "one:one_unit", *more], cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert (
            "layer last (Dense) ends the model without an activation, and binary_crossentropy" in done.stderr
        )
    assert not list(tmp_path.glob("*.tflite"))


def write_rows(path: Path) -> None:
    import numpy as np

    np.savez(path, inputs=np.zeros((20, 4), np.float32), labels=np.arange(20) % 2)
