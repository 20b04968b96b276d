"""Runs the signatures that gradient_graphs made, in one runtime. For a process without TensorFlow."""

from importlib import import_module
from pathlib import Path

import numpy as np
from gradient_cases import Case
from numpy.typing import NDArray

from fedfer.export.runtime import RUNTIMES

Arrays = dict[str, NDArray[np.float32]]


def observed_gradients(
    directory: Path, files: dict[str, list[Case]], runtime: str, cotangents: Arrays
) -> dict[str, Arrays]:
    """What each case's signature gives, by the case's name; it must take the first example alone too."""
    interpreter = import_module(RUNTIMES[runtime]).Interpreter
    observed = {}
    for file, cases in files.items():
        loaded = interpreter(str(directory / file), num_threads=1)
        for case in cases:
            run = loaded.get_signature_runner(case.name)
            observed[case.name] = run(**case.inputs, dy=cotangents[case.name])
            first: Arrays = {name: case.inputs[name][:1] for name in ("x", "x2") if name in case.inputs}
            run(**{**case.inputs, **first, "dy": cotangents[case.name][:1]})
    return observed
