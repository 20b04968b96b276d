"""Keras's recurrent layers and embeddings as they are traced for the phone.

A loop cannot be trained on a phone (its gradient needs a stack of unknown depth, an op only Flex has); the
steps are laid out one after the other instead, so their number has to be fixed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import keras
import tensorflow as tf

from fedfer.model.errors import ExportError

MAX_STEPS = 512  # each is some 30 operators in the file, forwards and backwards
_rnn_call = keras.layers.RNN.call


def recurrent(layer: Any, sequences: tf.Tensor, initial_state: Any = None, **rest: Any) -> Any:
    """keras.layers.RNN.call, unrolled, from zeros."""
    steps = sequences.shape[1]
    if steps is None or steps > MAX_STEPS:
        raise ExportError(
            f"{layer.name}: sequences of {steps or 'any number of'} steps; expected at most {MAX_STEPS}, "
            "fixed by the model's input shape"
        )
    if initial_state is None:
        zero = tf.zeros_like(sequences[:, 0, :1])
        initial_state = tf.nest.map_structure(lambda size: zero + tf.zeros([1, size]), layer.cell.state_size)
    with patch.multiple(layer, unroll=True):
        return _rnn_call(layer, sequences, initial_state=initial_state, **rest)


@contextmanager
def laid_out() -> Iterator[None]:
    """While active, recurrent layers are called step after step, and nothing else is changed."""
    with patch.object(keras.layers.RNN, "call", recurrent):
        yield


def embed(layer: Any, inputs: tf.Tensor) -> tf.Tensor:
    """keras.layers.Embedding.call: rows of the table by number; float inputs are cut to integers."""
    numbers = inputs if inputs.dtype == tf.int32 else tf.cast(inputs, tf.int32)
    table = tf.convert_to_tensor(layer.embeddings)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def rows(table: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        def gradient(dy: tf.Tensor) -> tf.Tensor:
            """Summed for each row; dense, as the optimizers on the phone are."""
            parts, flat = tf.reshape(dy, [-1, table.shape[1]]), tf.reshape(numbers, [-1])
            return tf.math.unsorted_segment_sum(parts, flat, table.shape[0])

        return tf.gather(table, numbers), gradient

    return rows(table)


CALLS = {
    (keras.layers.RNN, "call"): recurrent,
    (keras.layers.Embedding, "call"): embed,
}
