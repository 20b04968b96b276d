"""The mathematics of an exported model in TensorFlow: for large studies, on a GPU where TensorFlow sees one.

The Keras model that the `.tflite` was made of runs with Keras's own layers and TensorFlow's own kernels and
gradients; losses, optimizer, proximal term, frozen layers and dropout's masks (a function of the seed) are
those of the exported graph (fedfer.export.signatures). Before it trains, one step is held against the very
file in an interpreter. TensorFlow adds in another order than phones do: weights agree closely, not bit for
bit. With the same seeds they are the same bits from run to run on the same kind of machine.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from fedfer.export.check import run_in_runtime
from fedfer.export.contract import Contract, load_model_bytes, read_contract
from fedfer.export.engine import Engine
from fedfer.export.isolation import call_isolated
from fedfer.export.keras_fit import fit
from fedfer.export.keras_source import load_keras_model
from fedfer.export.moments import first_gradients
from fedfer.export.signatures import TrainableModel, full_names
from fedfer.export.verify import CHECK_SEED, Reference, random_batch, runtime_findings
from fedfer.model.errors import InterpreterError, UsageError, first_line


class TensorFlowSignatures(TrainableModel):
    """The same signatures in the forms that TensorFlow runs best: Keras's layers, TensorFlow's gradients."""

    @contextmanager
    def _inference_forms(self) -> Iterator[None]:
        yield

    @contextmanager
    def _training_forms(self) -> Iterator[None]:
        yield


class KerasModel(Engine):
    """An exported model by way of the Keras model that it was made of."""

    def __init__(
        self, model: bytes | Path, source: str, *, num_threads: int = 1, runtime: str = "auto"
    ) -> None:
        """`source` as `load_keras_model` takes it; `runtime` runs the `.tflite` that it is held against.

        Starts with the weights inside the file. Raises UsageError for a Keras model that is not the one the
        file was made of, ModelFileError, InterpreterError.
        """
        _set_up_tensorflow(num_threads)
        content = load_model_bytes(model)
        self.contract: Contract = read_contract(content)
        network = load_keras_model(source)
        fit(network, self.contract, source)
        self.runtime, self.runtime_version = "tensorflow", str(tf.__version__)
        self._signatures = TensorFlowSignatures(network, self.contract)
        self._functions = self._signatures.signatures()
        self._names = full_names(self.contract)
        self._check(content, source, runtime)

    @property
    def can_resume(self) -> bool:
        return True

    def run(self, signature: str, **inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
        short_names = {full: short for short, full in self._names.items()}
        tensors = {short_names.get(name, name): tf.constant(value) for name, value in inputs.items()}
        try:
            outputs = self._functions[signature](**tensors)
        except (ValueError, TypeError, tf.errors.OpError) as error:
            raise InterpreterError(f"{self.runtime} failed in `{signature}`: {first_line(error)}") from None
        return {self._names.get(name, name): np.array(value) for name, value in outputs.items()}

    def _check(self, content: bytes, source: str, runtime: str) -> None:
        """One step here and in an interpreter, of a process of its own, from the file's first weights, which
        are left in place. Raises UsageError with what differs."""
        images, targets = random_batch(self._signatures.model, self.contract)
        rate = self.contract.training.learning_rate
        seen = call_isolated(run_in_runtime, content, runtime, images, targets, rate, CHECK_SEED)

        self.restore(seen.initial)
        predictions = self.infer(images)
        loss = self.train(images, targets, learning_rate=rate, seed=CHECK_SEED).loss
        state = self.save_state()
        self.restore(seen.initial)
        adam = self.contract.training.optimizer.counts_steps
        gradients = first_gradients(state, self.contract) if adam else {}
        trained = {name: state[name] for name in seen.initial}
        here = Reference(seen.initial, predictions, loss, trained, gradients)
        findings = runtime_findings(seen, here, self.contract)
        wrong = [finding.text for finding in findings if not finding.passed]
        if wrong:
            raise UsageError(
                f"{source} does not train as the served model does; expected the Keras model that it was "
                f"exported from, with the same dropout, momentum and regularisers: {'; '.join(wrong)}"
            )


def _set_up_tensorflow(num_threads: int) -> None:
    """So many threads, and the same bits each time. Raises InterpreterError when it is too late for that."""
    try:
        tf.config.threading.set_intra_op_parallelism_threads(num_threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:
        raise InterpreterError(
            "TensorFlow was in use before the engine was made; give it a process of its own"
        ) from None
    tf.config.experimental.enable_op_determinism()
    tf.config.experimental.enable_tensor_float_32_execution(False)  # a GPU's, of ten bits: not the file's
    for device in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(device, True)  # there are several such processes
