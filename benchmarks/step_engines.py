"""Engines that take training steps of the VGG, one a process; run by training_step.py.

    step_engines.py ENGINE MODEL.tflite BATCH_SIZE NUM_THREADS
    step_engines.py flex-convert MODEL.tflite

Prints `took CPU_SEC WALL_SEC` after loading the model and the first step together (the engine's library is
imported before), then after each step that a line on stdin asks for. Dropout 0.3, SGD, batches of noise.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

LEARNING_RATE = 0.02
FLEX_SUFFIX = ".flex.tflite"
Step = Callable[[Any, Any], object]
LIBRARIES = {
    "keras": "fedfer.model.vgg",
    "keras-xla": "fedfer.model.vgg",
    "pytorch": "torch",
    "flex": "tensorflow",
    "tflite-runtime": "tflite_runtime.interpreter",
    "ai-edge-litert": "ai_edge_litert.interpreter",
}
ADAPTER = "fedfer.export.runtime"


def exported(runtime: str, model: Path, num_threads: int) -> Step:
    from fedfer.export.runtime import Model  # imported before, as the others' libraries are

    loaded = Model(model, runtime=runtime, num_threads=num_threads)
    return lambda images, labels: loaded.train(images, labels, learning_rate=LEARNING_RATE, seed=0)


def keras_step(num_threads: int, jit_compile: bool) -> Step:
    """`train_on_batch`; `jit_compile`: with XLA."""
    import keras
    import tensorflow as tf

    from fedfer.model.vgg import build_vgg

    tf.config.threading.set_intra_op_parallelism_threads(num_threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    model = build_vgg()
    model.compile(
        keras.optimizers.SGD(LEARNING_RATE),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=jit_compile,
    )
    return lambda images, labels: model.train_on_batch(images, labels)


def torch_step(num_threads: int) -> Step:
    """The same network, channels first."""
    import torch
    from torch import nn

    torch.set_num_threads(num_threads)
    layers: list[Any] = []
    channels = 1
    for pair in (64, 128, 256, 512):
        for filters in (pair, pair):
            layers += [
                nn.Conv2d(channels, filters, 3, padding=int(channels > 1)),
                nn.ReLU(),
                nn.BatchNorm2d(filters),
            ]
            channels = filters
        layers += [nn.MaxPool2d(3, 2), nn.Dropout(0.3)]
    layers.append(nn.Flatten())
    for inputs, units in ((512, 512), (512, 256), (256, 64)):
        layers += [nn.Linear(inputs, units), nn.ReLU(), nn.Dropout(0.3)]
    network = nn.Sequential(*layers, nn.Linear(64, 7))
    optimizer, loss_of = torch.optim.SGD(network.parameters(), LEARNING_RATE), nn.CrossEntropyLoss()

    def step(images: Any, labels: Any) -> float:
        optimizer.zero_grad()
        outputs = network(torch.from_numpy(images.transpose(0, 3, 1, 2)))
        loss = loss_of(outputs, torch.from_numpy(labels.astype(np.int64)))
        loss.backward()
        optimizer.step()
        return float(loss)

    return step


def flex_step(model: Path, num_threads: int) -> Step:
    """A file of `flex_convert` in TensorFlow's own interpreter, which has the Flex delegate."""
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(str(model), num_threads=num_threads)
    train = interpreter.get_signature_runner("train")
    return lambda images, labels: train(images=images, labels=labels)


def flex_convert(path: Path) -> None:
    """The usual recipe: GradientTape in a signature, converted with SELECT_TF_OPS (TensorFlow 2.17)."""
    import keras
    import tensorflow as tf

    from fedfer.model.vgg import build_vgg

    class Module(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = build_vgg(dropout=0.0)  # Keras hides the seeds of dropout from tf.Module
            self.kept = [weight.value for weight in self.network.weights]  # and its weights
            self.loss = keras.losses.SparseCategoricalCrossentropy()

        @tf.function(  # type: ignore[untyped-decorator]
            input_signature=[
                tf.TensorSpec([None, 48, 48, 1], tf.float32, name="images"),
                tf.TensorSpec([None], tf.int32, name="labels"),
            ]
        )
        def train(self, images: Any, labels: Any) -> dict[str, Any]:
            with tf.GradientTape() as tape:
                loss = self.loss(labels, self.network(images, training=True))
            weights = self.network.trainable_variables
            for weight, gradient in zip(weights, tape.gradient(loss, weights), strict=True):
                weight.assign(weight - LEARNING_RATE * gradient)
            return {"loss": loss}

    with tempfile.TemporaryDirectory() as directory:
        module = Module()
        tf.saved_model.save(module, directory, signatures={"train": module.train.get_concrete_function()})
        converter = tf.lite.TFLiteConverter.from_saved_model(directory)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
        converter.experimental_enable_resource_variables = True
        path.write_bytes(converter.convert())


def engine(name: str, model: Path, num_threads: int) -> Step:
    if name in ("keras", "keras-xla"):
        return keras_step(num_threads, jit_compile=name == "keras-xla")
    if name == "pytorch":
        return torch_step(num_threads)
    if name == "flex":
        return flex_step(model.with_suffix(FLEX_SUFFIX), num_threads)
    return exported(name, model, num_threads)


def main() -> None:
    name, model = sys.argv[1], Path(sys.argv[2])
    if name == "flex-convert":
        flex_convert(model.with_suffix(FLEX_SUFFIX))
        return
    batch_size, num_threads = int(sys.argv[3]), int(sys.argv[4])
    rng = np.random.default_rng(0)
    images = rng.random((batch_size, 48, 48, 1), np.float32)
    labels = rng.integers(0, 7, batch_size).astype(np.int32)
    import_module(LIBRARIES[name])
    if name in ("tflite-runtime", "ai-edge-litert"):
        import_module(ADAPTER)
    cpu, wall = time.process_time(), time.perf_counter()
    step = engine(name, model, num_threads)
    step(images, labels)
    print(f"took {time.process_time() - cpu} {time.perf_counter() - wall}", flush=True)
    for _ in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        step(images, labels)
        print(f"took {time.process_time() - cpu} {time.perf_counter() - wall}", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
