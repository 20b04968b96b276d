"""Which engine runs an exported model, and loading it. TensorFlow is imported only for the engine that is it.

tflite    the file itself, in the runtime of phones (fedfer.export.runtime)
keras     the Keras model that it was made of, in TensorFlow (fedfer.export.keras_engine)
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from fedfer.export.engine import Engine
from fedfer.export.runtime import Model
from fedfer.model.errors import UsageError

EngineName = Literal["tflite", "keras"]


@dataclass(frozen=True)
class EngineChoice:
    """`runtime` runs the `.tflite` (with `keras`, the check that both train alike). `keras_model`, for
    `keras`: a .keras file or package.module:function."""

    name: EngineName = "tflite"
    runtime: str = "auto"
    keras_model: str | None = None

    def __post_init__(self) -> None:
        """Raises UsageError for settings that do not fit each other."""
        if self.name not in get_args(EngineName):
            raise UsageError(f"engine {self.name!r}; expected one of {', '.join(get_args(EngineName))}")
        if (self.name == "keras") != (self.keras_model is not None):
            raise UsageError(
                f"engine {self.name} and Keras model {self.keras_model}; the engine keras needs the Keras "
                "model that the file was exported from (a .keras file or package.module:function), and no "
                "other takes one"
            )


def open_engine(model: bytes | Path, choice: EngineChoice) -> Engine:
    """Loads the served model, with the weights inside the file, in one thread. For a process of its own.

    Raises ModelFileError, InterpreterError, and UsageError for a Keras model that is not the served one.
    """
    if choice.keras_model is None:
        return Model(model, runtime=choice.runtime)
    from fedfer.export.quiet import quiet_tensorflow

    with quiet_tensorflow():
        from fedfer.export.keras_engine import KerasModel

        return KerasModel(model, choice.keras_model, runtime=choice.runtime)
