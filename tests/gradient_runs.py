"""Runs the signatures that gradient_graphs made, in one runtime. For a process without TensorFlow."""

from importlib import import_module
from pathlib import Path

import numpy as np
from gradient_cases import Case, alone_name, first_example
from numpy.typing import NDArray

from fedfer.export.runtime import RUNTIMES

Arrays = dict[str, NDArray[np.float32]]


def observed_gradients(
    directory: Path, files: dict[str, list[Case]], runtime: str, cotangents: Arrays
) -> dict[str, Arrays]:
    """What each case's signature gives, by the case's name; then of the first example alone."""
    interpreter = import_module(RUNTIMES[runtime]).Interpreter
    observed = {}
    for file, cases in files.items():
        loaded = interpreter(str(directory / file), num_threads=1)
        for case in cases:
            run = loaded.get_signature_runner(case.name)
            observed[case.name] = run(**case.inputs, dy=cotangents[case.name])
            first = first_example(case)
            if first:
                alone = run(**first, dy=cotangents[case.name][:1])
                observed[case.name] |= {alone_name(name): array for name, array in alone.items()}
    return observed
