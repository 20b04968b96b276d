"""Whether a Keras model takes tokens, which are whole numbers, and how many different ones."""

from collections.abc import Iterator

import keras
import numpy as np

from fedfer.model.data import LabelledImages
from fedfer.model.errors import DataError


def vocabulary_size(model: keras.Model) -> int | None:
    """How many different whole numbers the model takes; None unless its input goes into an Embedding or is
    made of integers (of which any are taken to be right)."""
    (taken,) = model.inputs
    sizes = list(_table_sizes(model))
    return min(sizes) if sizes else None if keras.backend.is_float_dtype(taken.dtype) else 2


def check_tokens(model: keras.Model, data: LabelledImages) -> None:
    """Raises DataError for numbers that the model's Embedding has no row for."""
    size = min(_table_sizes(model), default=None)
    if size is None:
        return
    least, most = data.images.min(), data.images.max()
    if not np.array_equal(data.images, np.floor(data.images)):
        raise DataError(
            f"inputs are {data.images.dtype} with fractions; {model.name} takes tokens, whole numbers "
            f"0..{size - 1}"
        )
    if least < 0 or most >= size:
        raise DataError(
            f"tokens are {least:g}..{most:g}; expected 0..{size - 1}, as the model's Embedding has rows"
        )


def _table_sizes(model: keras.Model) -> Iterator[int]:
    """Of the Embeddings that the model's input goes into, those at the beginning of a model inside it too."""
    (taken,) = model.inputs
    for node in taken._keras_history.operation._outbound_nodes:
        layer = node.operation
        if isinstance(layer, keras.layers.Embedding):
            yield layer.input_dim
        elif isinstance(layer, keras.Model) and len(layer.inputs) == 1:
            yield from _table_sizes(layer)
