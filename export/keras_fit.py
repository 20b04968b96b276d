"""Whether a Keras model is the one that a `.tflite` was made of, as far as names, shapes and numbers tell.

What they do not tell (dropout, BatchNorm's momentum, regularisers) shows in a training step only.
"""

from collections.abc import Iterator

import keras

from fedfer.export.contract import Contract, WeightSpec
from fedfer.export.refusal import refuse
from fedfer.export.tflite import make_contract, round_to_float16
from fedfer.export.trainable import layers_of, weight_name
from fedfer.model.errors import ExportError, UsageError


def fit(model: keras.Model, contract: Contract, source: str) -> None:
    """Freezes the layers of `model` (from `source`) that are frozen in the file of this contract.

    Raises UsageError for a model that the file was not made of.
    """
    try:
        refuse(model)
        if contract.num_frozen:
            _freeze(model, contract)
        made = make_contract(model, contract.labels, contract.training)
        if made.frozen_weights != contract.frozen_weights:  # perhaps exported with --weights float16
            round_to_float16(model)
            made = make_contract(model, contract.labels, contract.training)
    except ExportError as error:
        raise UsageError(f"{source} is not the model that was exported: {error}") from None
    for difference in _differences(made, contract):
        raise UsageError(
            f"{source} is not the model that the served file was exported from: {difference}; "
            "give its .keras file, or the function that returns it"
        )


def _freeze(model: keras.Model, contract: Contract) -> None:
    travelling = {weight.name for weight in contract.weights}
    for layer in layers_of(model):
        if not travelling & {weight_name(weight, model) for weight in layer.weights}:
            layer.trainable = False


def _differences(made: Contract, served: Contract) -> Iterator[str]:
    """In words, what the model has and what the file has."""
    if made.image_shape != served.image_shape:
        yield f"its input is {made.image_shape}, the file's {served.image_shape}"
    for mine, theirs in zip(made.weights, served.weights, strict=False):
        if mine != theirs:
            yield f"its weight {_shown(mine)} is {_shown(theirs)} in the file"
    if len(made.weights) != len(served.weights):
        yield f"it has {len(made.weights)} tensors, the file {len(served.weights)}"
    if made.frozen_weights != served.frozen_weights:
        yield f"its {made.num_frozen} frozen numbers are not the {served.num_frozen} in the file"
    if made.pixel_divisor != served.pixel_divisor:
        yield f"its inputs are divided by {made.pixel_divisor:g}, the file's by {served.pixel_divisor:g}"


def _shown(weight: WeightSpec) -> str:
    return f"{weight.name} {list(weight.shape)} ({weight.role})"
