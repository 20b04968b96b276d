"""Exports of the tiny model that went wrong in one way each, for `call_isolated`; TensorFlow comes inside."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

Convert = Callable[..., bytes]
WAYS = ("nothing", "other weights", "relu gradient", "bias gradient", "dropout", "flex")
ADAM_WAYS = (
    *("nothing", "relu gradient", "bias gradient"),
    *("no bias correction", "other epsilon", "second moment", "steps uncounted"),
)


def verified(
    ways: tuple[str, ...] = WAYS, optimizer: str = "sgd", rate: float | None = None
) -> dict[str, list[tuple[bool, str]]]:
    """What verify() finds after each kind of sabotage: (passed, text)."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from keras_models import LABELS, tiny_model

    from fedfer.export.contract import TrainingSettings
    from fedfer.export.optimizer_settings import OPTIMIZERS
    from fedfer.export.tflite import make_contract
    from fedfer.export.verify import verify

    chosen = OPTIMIZERS[optimizer]
    found = {}
    for way in ways:
        model = tiny_model()
        weights = [weight.copy() for weight in model.get_weights()]
        settings = TrainingSettings(chosen, learning_rate=rate or chosen.learning_rate)
        content = sabotaged_convert(way)(model, LABELS, settings)
        findings = verify(content, model, make_contract(model, LABELS, settings))
        found[way] = [(finding.passed, finding.text) for finding in findings]
        assert all((a == b).all() for a, b in zip(weights, model.get_weights(), strict=True))
    return found


def sabotaged_convert(way: str) -> Convert:
    """fedfer.export.tflite.convert with one thing wrong."""
    from fedfer.export.packing import finish
    from fedfer.export.tflite import convert, make_contract

    def wrong(model: Any, labels: tuple[str, ...], settings: Any, **more: Any) -> bytes:
        if way == "flex":
            return finish(flex_file(), make_contract(model, labels, settings), {})
        with _wrong_weights(model, way), _wrong_gradient(way), _wrong_dropout(way), _wrong_adam(way):
            return convert(model, labels, settings, **more)

    return wrong


@contextmanager
def _wrong_weights(model: Any, way: str) -> Iterator[None]:
    """While converting, one number of one weight differs in its last places."""
    weights = model.get_weights()
    if way == "other weights":
        changed = [weight.copy() for weight in weights]
        changed[0].flat[0] += 1e-6
        model.set_weights(changed)
    yield
    model.set_weights(weights)


@contextmanager
def _wrong_gradient(way: str) -> Iterator[None]:
    import tensorflow as tf

    from fedfer.export import gradients

    wrong = {
        "relu gradient": ("Relu", lambda op, dy: dy),
        "bias gradient": ("BiasAdd", lambda op, dy: (dy, 1.1 * tf.reduce_sum(dy, range(dy.shape.rank - 1)))),
    }
    if way not in wrong:
        yield
        return
    kind, gradient = wrong[way]
    tf.RegisterGradient(f"Wrong{kind}")(gradient)
    with patch.dict(gradients.OVERRIDES, {kind: f"Wrong{kind}"}):
        yield


@contextmanager
def _wrong_dropout(way: str) -> Iterator[None]:
    """While converting, dropout's hash mixes with another multiplier: other masks."""
    from fedfer.export import dropout

    with patch.object(dropout, "MIX_1", dropout.MIX_1 ^ 0x10 if way == "dropout" else dropout.MIX_1):
        yield


@contextmanager
def _wrong_adam(way: str) -> Iterator[None]:
    """While converting, one thing in Adam's step is not as in Keras."""
    from fedfer.export.optimizers import Optimizer

    class Wrong(Optimizer):
        def _corrected(self, learning_rate: Any) -> Any:
            rate = super()._corrected(learning_rate)
            if way == "steps uncounted":
                self.state[-1].assign([0.0])
            return learning_rate if way == "no bias correction" else rate

        def _adam(self, variable: Any, gradient: Any, slots: Any, rate: Any) -> None:
            super()._adam(variable, gradient, slots, rate)
            if way == "second moment":
                slots[1].assign(slots[1] * 1.5)

    def wrong(settings: Any, *arguments: Any) -> Any:
        other = replace(settings, epsilon=1e-3) if way == "other epsilon" else settings
        return Wrong(other, *arguments)

    with patch("fedfer.export.signatures.Optimizer", wrong):
        yield


def flex_file() -> bytes:
    """A `.tflite` of the usual recipe: it runs only with the Flex delegate."""
    import tensorflow as tf

    def inverse(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": tf.linalg.inv(x)}

    signature = tf.function(inverse).get_concrete_function(tf.TensorSpec([3, 3], tf.float32))
    with tempfile.TemporaryDirectory() as directory:
        tf.saved_model.save(tf.Module(), directory, signature)
        converter = tf.lite.TFLiteConverter.from_saved_model(directory)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
        content: bytes = converter.convert()
    return content


def write_flex_file(path: Path) -> None:
    path.write_bytes(flex_file())


def export_command(way: str, *arguments: str) -> int:
    """`fedfer export ARGUMENTS` of the tiny model instead of the VGG, sabotaged; returns the exit code."""
    from fedfer.cli.main import main
    from fedfer.export.quiet import quiet_tensorflow

    with quiet_tensorflow():
        from keras_models import tiny_model
    with (
        patch("fedfer.export.tflite.convert", sabotaged_convert(way)),
        patch("fedfer.model.vgg.build_vgg", lambda dropout, *_: tiny_model(dropout)),
    ):
        return main(["export", *arguments])
