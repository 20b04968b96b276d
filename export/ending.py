"""What a Keras model ends in: logits, by its layers, where probabilities are said to come out.

Numbers do not tell: a few logits of a fresh model may well lie between 0 and 1. So its output is followed
back to the layer that it is made by. What else it may be made of (activations, Lambda, functions of
keras.ops, a frozen layer that adds probabilities up) is left to the check of the exported file, which looks
at numbers.
"""

import keras

from fedfer.export.loss_settings import BINARY, SQUARED, LossSettings
from fedfer.model.errors import ExportError


def _layers(*names: str) -> tuple[type, ...]:
    return tuple(getattr(keras.layers, name) for name in names)


# Exactly these: a class that is made from one of them may do anything.
LINEAR = _layers(
    *("Dense", "EinsumDense", "Conv1D", "Conv2D", "DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D"),
    *("SeparableConv2D", "Conv1DTranspose", "Conv2DTranspose"),
)
# What any number that goes in can come out of.
PASSING = _layers(
    *("Flatten", "Reshape", "Permute", "RepeatVector", "Identity", "Activation", "ActivityRegularization"),
    *("Dropout", "SpatialDropout1D", "SpatialDropout2D", "BatchNormalization", "Normalization", "Rescaling"),
    *("MaxPooling1D", "MaxPooling2D", "AveragePooling1D", "AveragePooling2D", "GlobalMaxPooling1D"),
    *("GlobalMaxPooling2D", "GlobalAveragePooling1D", "GlobalAveragePooling2D", "Cropping1D", "Cropping2D"),
    *("Add", "Subtract", "Average", "Concatenate"),
)


def refuse_logits(model: keras.Model, loss: LossSettings) -> None:
    """Raises ExportError for a model that ends in logits, by the layer that makes them, where the loss takes
    probabilities."""
    layer = None if loss.from_logits or loss.name == SQUARED else _linear_end(model.outputs[0])
    if layer is not None:
        end = "sigmoid" if loss.name == BINARY else "softmax"
        raise ExportError(
            f"layer {layer.name} ({type(layer).__name__}) ends the model without an activation, and "
            f"{loss.name} takes probabilities; say --from-logits (in Keras from_logits=True), or end the "
            f"model in a {end}"
        )


def _linear_end(output: keras.KerasTensor) -> keras.Layer | None:
    """The layer that makes a tensor, or a part of it, by a sum of weights times numbers, and nothing else."""
    made_by = output._keras_history
    layer = made_by.operation
    if isinstance(layer, keras.Model):
        return _linear_end(layer.outputs[made_by.tensor_index]) if getattr(layer, "outputs", None) else None
    if type(layer) is keras.layers.TimeDistributed:
        layer = layer.layer
    if type(layer) in LINEAR:
        return layer if layer.trainable and _is_linear(layer) else None
    if type(layer) not in PASSING or not _is_linear(layer):
        return None
    found = map(_linear_end, layer._inbound_nodes[made_by.node_index].input_tensors)
    return next((end for end in found if end is not None), None)


def _is_linear(layer: keras.Layer) -> bool:
    return getattr(layer, "activation", keras.activations.linear) is keras.activations.linear
