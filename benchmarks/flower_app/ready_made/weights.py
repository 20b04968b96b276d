"""Ready-made weights, and a log of when things happened."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def arrays(shapes: str, seed: int) -> list[NDArray[np.float32]]:
    """Random float32 arrays of shapes written as "3x3x64;64"."""
    rng = np.random.default_rng(seed)
    sizes = [tuple(int(size) for size in shape.split("x") if size) for shape in shapes.split(";")]
    return [rng.random(shape, np.float32) for shape in sizes]


def note(log: str, **fields: Any) -> None:
    """Appends a line with the time to the log."""
    with Path(log).open("a") as file:
        file.write(json.dumps({**fields, "at": time.time()}) + "\n")
