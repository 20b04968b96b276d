"""Building the files of gradient_graphs, for `call_isolated`: light to import, TensorFlow comes inside."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedfer.model.errors import ExportError

Arrays = dict[str, NDArray[np.float32]]


def build_files(directory: Path) -> dict[str, tuple[Arrays, NDArray[np.float32]]]:
    """Writes the `.tflite` files; returns each case's expected gradients and cotangent."""
    from gradient_graphs import build

    return build(directory)


def refusals() -> dict[str, str]:
    """What is said of things that cannot be exported: ExportError's words, "" where there was none."""
    said = {}
    for what in ("unequal pooling strides", "stride and dilation", "groups", "image of unknown height"):
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

    sizes = [2, None, 8, 2] if what == "image of unknown height" else [2, 8, 8, 2]
    groups = 2 if what == "groups" else 1
    graph = tf.Graph()
    with graph.as_default(), builtin_gradients(graph):
        x = tf.compat.v1.placeholder(tf.float32, sizes)
        w = tf.compat.v1.placeholder(tf.float32, [3, 3, 2 // groups, 4])
        if what == "unequal pooling strides":
            y = OPS["pool"](x, 2, [1, 2], "SAME")
        elif what == "stride and dilation":
            y = OPS["conv"](x, w, [2, 2], padding="VALID", dilations=[2, 2])
        else:
            y = OPS["conv"](x, w, padding="SAME")
        tf.gradients(y, [x])
