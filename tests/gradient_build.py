"""Building the files of gradient_graphs, for `call_isolated`: light to import, TensorFlow comes inside."""

from pathlib import Path

import numpy as np
from gradient_cases import Case
from numpy.typing import NDArray

from fedfer.model.errors import ExportError

Arrays = dict[str, NDArray[np.float32]]


def build_files(
    directory: Path, files: dict[str, list[Case]]
) -> dict[str, tuple[Arrays, NDArray[np.float32]]]:
    """Writes the `.tflite` files; returns each case's expected gradients and cotangent."""
    from gradient_graphs import build

    return build(directory, files)


def refusals() -> dict[str, str]:
    """What is said of things that cannot be exported: ExportError's words, "" where there was none."""
    said = {}
    for what in ("groups", "image of unknown height", "slice of a batch", "computed slice"):
        try:
            _trace(what)
            said[what] = ""
        except ExportError as error:
            said[what] = str(error)
    return said


def _trace(what: str) -> None:
    import tensorflow as tf
    from gradient_graphs import OPS

    from fedfer.export.gradients import builtin_gradients

    sizes = [2, None, 8, 2] if what == "image of unknown height" else [None, 8, 8, 2]
    groups = 2 if what == "groups" else 1
    graph = tf.Graph()
    with graph.as_default(), builtin_gradients(graph):
        x = tf.compat.v1.placeholder(tf.float32, sizes)
        w = tf.compat.v1.placeholder(tf.float32, [3, 3, 2 // groups, 4])
        if what == "slice of a batch":
            y = x[1:]
        elif what == "computed slice":
            y = x[:, : tf.cast(x[0, 0, 0, 0], tf.int32)]
        else:
            y = OPS["conv"](x, w, padding="SAME")
        tf.gradients(y, [x])
