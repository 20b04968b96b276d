"""Finding the Keras model to export: a `.keras` file, or a function that builds one. Imports Keras."""

import importlib
import re
import sys
import sysconfig
import traceback
import zipfile
from pathlib import Path

import keras

from fedfer.model.errors import FedferError, UsageError, first_line

MAX_KERAS_BYTES = 2 * 2**30  # of all that a .keras file holds, unpacked: weights and Adam's moments
MAX_CONFIG_BYTES = 64 * 2**20  # of its JSON: ResNet-152's takes 0.5 MB
WEIGHTS = (".h5", ".npz")  # how the names of its other parts end


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
        _check_sizes(path)
        try:
            return keras.saving.load_model(path)
        except Exception:  # perhaps only its loss or metrics are unknown here
            return keras.saving.load_model(path, compile=False)
    except UsageError:
        raise
    except zipfile.BadZipFile as error:
        expected = "expected a model saved by `model.save('name.keras')`"
        raise UsageError(f"Keras cannot load {path}: {error}; {expected}") from None
    except Exception as error:  # Keras raises whatever its parts do
        raise UsageError(f"Keras cannot load {path}: {_fault(error)}") from None


def _fault(error: Exception) -> str:
    """What stands in the way, out of the page that Keras makes of it."""
    unknown = re.findall(r"Could not locate (\w+ '[^']{1,100}')", str(error))
    if "a `Lambda` layer" in str(error):
        unknown = ["a Lambda layer of Python code"]
    if not unknown:
        return first_line(error)
    return (
        f"{unknown[-1]} is not Keras's own, and no code is taken from a file; give the function that builds "
        "or loads the model, package.module:function"
    )


def _check_sizes(path: Path) -> None:
    """Before anything is unpacked: a few bytes may say that they are many. Raises UsageError, BadZipFile."""
    with zipfile.ZipFile(path) as file:
        parts = file.infolist()
    total = sum(part.file_size for part in parts)
    config = sum(part.file_size for part in parts if not part.filename.endswith(WEIGHTS))
    for size, most, what in (
        (total, MAX_KERAS_BYTES, "its parts take"),
        (config, MAX_CONFIG_BYTES, "what it says of its layers takes"),
    ):
        if size > most:
            raise UsageError(
                f"{path} is no model to export: {what} {size:,} bytes; expected at most {most:,}"
            )


def _from_function(source: str) -> object:
    module_name, separator, name = source.partition(":")
    if not (separator and all(module_name.split(".")) and name.isidentifier()):
        raise UsageError(f"{source!r} is no model; expected FILE.keras or package.module:function")
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        ours = f"{module_name}.".startswith(f"{error.name}.")  # else it is one that the module imports
        way_out = "run it from the module's folder" if ours else f"install what {module_name} needs"
        raise UsageError(f"cannot import {module_name}: {error}; {way_out}") from None
    except (Exception, SystemExit) as error:  # somebody's code, as below
        raise UsageError(f"cannot import {module_name}: {_told(error)}") from None
    finally:
        if folder in sys.path:  # the module may have changed it
            sys.path.remove(folder)
    build = getattr(module, name, None)
    if not callable(build):
        raise UsageError(f"{module_name} has no function {name}; expected one that returns a Keras model")
    try:
        return build()
    except (Exception, SystemExit) as error:
        if isinstance(error, FedferError):  # one of fedfer's own models says what is wrong
            raise
        raise UsageError(f"{source}, called without arguments, raised {_told(error)}") from None


def _told(error: BaseException) -> str:
    """Its kind, what it says, and the innermost line of code that is neither a library's nor Python's own."""
    said = f"{type(error).__name__}: {first_line(error)}"
    if isinstance(error, SyntaxError):
        return said  # which names the file and the line
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first is here
    libraries = ("<", sysconfig.get_path("stdlib"))
    own = [f for f in frames if not f.filename.startswith(libraries) and "site-packages" not in f.filename]
    return f"{said} ({own[-1].filename}, line {own[-1].lineno})" if own else said
