"""Which layers of a Keras model train on the phone; the weights of the others become constants of the file.

A frozen layer costs no upload, no optimizer slot and no gradient of its own, and its convolutions run on the
kernels for constant filters. As in Keras, a frozen BatchNormalization normalises with its moving statistics.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from unittest.mock import patch

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from fedfer.model.errors import UsageError

ALL, HEAD = "all", "head"
# What a head comes after: layers that look at places of an image or a sequence, or do away with places.
BODY = tuple(
    getattr(keras.layers, name)
    for name in (
        *("Conv1D", "Conv2D", "DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D"),
        *("Conv1DTranspose", "Conv2DTranspose", "RNN", "Bidirectional", "Flatten"),
        *("GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalMaxPooling1D", "GlobalMaxPooling2D"),
    )
)


def choose_trainable(model: keras.Model, wanted: str) -> None:
    """Freezes all layers but those wanted: `all` (freezes none), `head` (the layers after the last
    convolution, recurrent layer, flattening or global pooling), or patterns of names, as in a shell, with
    commas between; the name of a model inside the model stands for all layers of it.

    Layers that are frozen already stay so. Raises UsageError when nothing would train.
    """
    layers = list(layers_of(model))
    names: dict[keras.Layer, tuple[str, ...]] = {}
    for layer, found in _names_of_layers(model):
        names[layer] = (*names.get(layer, ()), *found)  # it may be inside several models
    if wanted == HEAD:
        body = [place for place, layer in enumerate(layers) if isinstance(layer, BODY)]
        if not body:
            raise UsageError(
                "the model has no convolution, recurrent layer, flattening or global pooling that a head "
                f"could come after; name the layers that train: {', '.join(layer.name for layer in layers)}"
            )
        chosen = layers[body[-1] + 1 :]
    else:
        patterns = ["*"] if wanted == ALL else wanted.split(",")
        chosen = [layer for layer in layers if any(fnmatchcase(n, p) for n in names[layer] for p in patterns)]
    for layer in layers:
        layer.trainable = layer.trainable and any(layer is one for one in chosen)
    if not model.trainable_weights:
        weighty = [layer for layer in layers if layer.weights]
        listed = ", ".join(layer.name for layer in weighty)
        frozen = ", ".join(layer.name for layer in chosen if layer.weights)  # it came so
        if frozen:
            which = "all of its layers" if wanted == ALL else f"the layers that are {wanted!r}"
            raise UsageError(
                f"nothing of the model would train: {which} are frozen ({frozen}): set their `trainable`"
            )
        if not listed:
            raise UsageError("nothing of the model would train: no weights")
        inside = dict.fromkeys(name for layer in weighty for name in names[layer] if name != layer.name)
        models = f"; models inside it: {', '.join(inside)}" if inside else ""
        raise UsageError(f"no layer with weights to train is {wanted!r}; the model's: {listed}{models}")


def layers_of(model: keras.Model) -> Iterator[keras.Layer]:
    """In the model's order, those of models inside it in their place."""
    return (layer for layer, _ in _names_of_layers(model))


def _names_of_layers(
    model: keras.Model, outer: tuple[str, ...] = ()
) -> Iterator[tuple[keras.Layer, tuple[str, ...]]]:
    """Each layer with its names: of the models that it is inside of, and its own."""
    for layer in model.layers:
        names = (*outer, layer.name)
        if isinstance(layer, keras.Model):
            yield from _names_of_layers(layer, names)
        else:
            yield layer, names


def travelling_weights(model: keras.Model) -> list[keras.Variable]:
    """What a checkpoint holds, in the model's order: trainable weights, and what else training changes
    (BatchNorm's moving statistics)."""
    frozen = {id(weight) for weight in frozen_weights(model)}
    return [weight for weight in model.weights if id(weight) not in frozen]


def frozen_weights(model: keras.Model) -> list[keras.Variable]:
    """What no training step changes, in the model's order."""
    still = {
        id(weight)
        for layer in layers_of(model)
        if not layer.trainable or isinstance(layer, keras.layers.Normalization)
        for weight in layer.weights
    }
    return [weight for weight in model.weights if id(weight) in still]


def frozen_values(model: keras.Model) -> dict[str, NDArray[np.float32]]:
    """Frozen weights by their names."""
    return {weight_name(weight, model): np.asarray(weight) for weight in frozen_weights(model)}


def weight_name(weight: keras.Variable, model: keras.Model) -> str:
    """The names of the layers that it is inside of, and its own: "body/conv1/kernel". (Keras's `path` has
    those that were being built at the time: of a model that was loaded from a file, or put into another one
    when it was ready, it lacks the outer ones.)"""
    names: dict[int, str] = {}
    _name_weights(model, "", names)
    return names[id(weight)]


def _name_weights(layer: keras.Layer, scope: str, names: dict[int, str]) -> None:
    """What is used in several places is called by the first."""
    for weight in (*layer._trainable_variables, *layer._non_trainable_variables):
        names.setdefault(id(weight), f"{scope}{weight.name}")
    for inner in layer._layers:
        _name_weights(inner, f"{scope}{inner.name}/", names)


@contextmanager
def frozen_as_constants(model: keras.Model) -> Iterator[None]:
    """While active, in a graph that is being traced, frozen weights are constants of that graph."""
    with ExitStack() as stack:
        for weight in frozen_weights(model):
            with tf.init_scope():
                value = weight.numpy()
            stack.enter_context(patch.object(weight, "_value", tf.constant(value)))
        yield
