"""Finding the Keras model to export: a `.keras` file, or a function that builds one. Imports Keras."""

import importlib
import sys
from pathlib import Path

import keras

from fedfer.model.errors import UsageError


def load_keras_model(source: str) -> keras.Model:
    """The model in `FILE.keras`, or what `package.module:function` returns when called without arguments.

    A file is loaded in Keras's safe mode: code inside it is refused. A module is imported from the current
    folder or from what is installed, and runs as your own program does. Raises UsageError.
    """
    model = _from_file(Path(source)) if source.endswith(".keras") else _from_function(source)
    if not isinstance(model, keras.Model) or not model.built:
        raise UsageError(f"{source} gives {type(model).__name__}; expected a Keras model with an input shape")
    return model


def _from_file(path: Path) -> object:
    if not path.is_file():
        raise UsageError(f"no file {path}; expected a model saved by `model.save('name.keras')`")
    try:
        try:
            return keras.saving.load_model(path)
        except Exception:  # perhaps only its loss or metrics are unknown here
            return keras.saving.load_model(path, compile=False)
    except Exception as error:  # Keras raises whatever its parts do
        raise UsageError(f"Keras cannot load {path}: {_first_line(error)}") from None


def _from_function(source: str) -> object:
    module_name, separator, name = source.partition(":")
    if not (separator and module_name and name.isidentifier()):
        raise UsageError(f"{source!r} is no model; expected FILE.keras or package.module:function")
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UsageError(f"cannot import {module_name}: {error}; run it from the module's folder") from None
    finally:
        sys.path.remove(str(Path.cwd()))
    build = getattr(module, name, None)
    if not callable(build):
        raise UsageError(f"{module_name} has no function {name}; expected one that returns a Keras model")
    return build()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
