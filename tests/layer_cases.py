"""Every Keras layer that can be exported, in small: settings and inputs, no TensorFlow."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from gradient_cases import Case, integers, normal

Settings = dict[str, Any]
IMAGE, SEQUENCE = (2, 7, 9, 4), (2, 9, 4)
CONVOLUTIONS: dict[str, tuple[str, tuple[int, ...], Settings]] = {
    "strides_differ": (
        "Conv2D",
        IMAGE,
        {"filters": 4, "kernel_size": 3, "strides": (1, 2), "padding": "same"},
    ),
    "places_between": ("Conv2D", IMAGE, {"filters": 4, "kernel_size": 2, "strides": 3}),
    "groups": ("Conv2D", IMAGE, {"filters": 6, "kernel_size": 3, "groups": 2, "padding": "same"}),
    "groups_strided": ("Conv2D", IMAGE, {"filters": 8, "kernel_size": 3, "groups": 4, "strides": 2}),
    "one_row": ("Conv2D", (1, 1, 9, 4), {"filters": 3, "kernel_size": (1, 4), "strides": 2}),
    "depthwise": ("DepthwiseConv2D", IMAGE, {"kernel_size": 3, "padding": "same"}),
    "multiplied": ("DepthwiseConv2D", IMAGE, {"kernel_size": 3, "depth_multiplier": 3, "strides": 2}),
    "depthwise_dilated": (
        "DepthwiseConv2D",
        IMAGE,
        {"kernel_size": (3, 2), "dilation_rate": 2},
    ),
    "separable": ("SeparableConv2D", IMAGE, {"filters": 5, "kernel_size": 3, "padding": "same"}),
    "separable_multiplied": (
        "SeparableConv2D",
        IMAGE,
        {"filters": 5, "kernel_size": (2, 3), "strides": 2, "depth_multiplier": 2},
    ),
    "transposed": (
        "Conv2DTranspose",
        (2, 5, 7, 3),
        {"filters": 4, "kernel_size": 3, "strides": 2, "padding": "same", "activation": "relu"},
    ),
    "transposed_valid": ("Conv2DTranspose", (2, 5, 7, 3), {"filters": 4, "kernel_size": 3}),
    "transposed_gaps": ("Conv2DTranspose", (2, 5, 7, 3), {"filters": 4, "kernel_size": 2, "strides": 3}),
    "transposed_strides_differ": (
        "Conv2DTranspose",
        (1, 4, 3, 3),
        {"filters": 2, "kernel_size": (3, 2), "strides": (1, 2), "padding": "same", "use_bias": False},
    ),
    "transposed_large": (
        "Conv2DTranspose",
        (2, 4, 3, 3),
        {"filters": 2, "kernel_size": 5, "strides": 3, "padding": "same"},
    ),
    "transposed_output_padding": (
        "Conv2DTranspose",
        (2, 5, 7, 3),
        {"filters": 4, "kernel_size": 3, "strides": 2, "output_padding": 1},
    ),
    "sequence": (
        "Conv1D",
        SEQUENCE,
        {"filters": 5, "kernel_size": 3, "padding": "same"},
    ),
    "sequence_strided": ("Conv1D", SEQUENCE, {"filters": 5, "kernel_size": 3, "strides": 2}),
    "causal": ("Conv1D", SEQUENCE, {"filters": 5, "kernel_size": 2, "padding": "causal", "dilation_rate": 2}),
    "sequence_groups": ("Conv1D", SEQUENCE, {"filters": 4, "kernel_size": 3, "groups": 2}),
    "sequence_separable": ("SeparableConv1D", SEQUENCE, {"filters": 5, "kernel_size": 3}),
    "sequence_depthwise": ("DepthwiseConv1D", SEQUENCE, {"kernel_size": 3, "padding": "same"}),
    "sequence_transposed": ("Conv1DTranspose", SEQUENCE, {"filters": 5, "kernel_size": 3, "strides": 2}),
}
POOLINGS: dict[str, tuple[str, tuple[int, ...], Settings]] = {
    "max_strides_differ": ("MaxPooling2D", IMAGE, {"pool_size": (2, 3), "strides": (1, 2)}),
    "max_same": ("MaxPooling2D", IMAGE, {"pool_size": 3, "strides": 2, "padding": "same"}),
    "max_gaps": ("MaxPooling2D", IMAGE, {"pool_size": 2, "strides": (3, 2), "padding": "same"}),
    "max_whole": ("MaxPooling2D", IMAGE, {"pool_size": (7, 9)}),
    "average_strides_differ": (
        "AveragePooling2D",
        IMAGE,
        {"pool_size": (2, 4), "strides": (1, 2), "padding": "same"},
    ),
    "max_1d": ("MaxPooling1D", SEQUENCE, {"pool_size": 3, "strides": 2}),
    "average_1d": ("AveragePooling1D", SEQUENCE, {"pool_size": 4, "strides": 3, "padding": "same"}),
    "global_max": ("GlobalMaxPooling2D", IMAGE, {}),
    "global_max_1d": ("GlobalMaxPooling1D", SEQUENCE, {"keepdims": True}),
}
OTHERS: dict[str, tuple[str, tuple[int, ...], Settings]] = {
    "global_average": ("GlobalAveragePooling2D", IMAGE, {}),
    "global_average_kept": ("GlobalAveragePooling2D", IMAGE, {"keepdims": True}),
    "global_average_large": ("GlobalAveragePooling2D", (2, 60, 70, 2), {}),
    "global_average_1d": ("GlobalAveragePooling1D", SEQUENCE, {}),
    "batch_norm_other_axis": ("BatchNormalization", IMAGE, {"axis": 1, "momentum": 0.5}),
    "layer_norm": ("LayerNormalization", IMAGE, {}),
    "layer_norm_of_all": ("LayerNormalization", (2, 30, 30, 8), {"axis": [1, 2, 3]}),
    "layer_norm_2d": ("LayerNormalization", (4, 6), {"center": False}),
    "rms_norm": ("RMSNormalization", (4, 6), {}),
    "group_norm": ("GroupNormalization", IMAGE, {"groups": 2}),
    "group_norm_large": ("GroupNormalization", (2, 30, 30, 8), {"groups": 2, "scale": False}),
    "instance_norm": ("GroupNormalization", IMAGE, {"groups": -1}),
    "unit_norm": ("UnitNormalization", (3, 6), {}),
    "normalization": ("Normalization", IMAGE, {"mean": [1.0, 2, 3, 4], "variance": [1.0, 4, 9, 16]}),
    "rescaling": ("Rescaling", IMAGE, {"scale": 1 / 127.5, "offset": -1.0}),
    "leaky_relu": ("LeakyReLU", SEQUENCE, {"negative_slope": 0.2}),
    "relu_of_all_kinds": ("ReLU", SEQUENCE, {"negative_slope": 0.1, "max_value": 1.5, "threshold": 0.3}),
    "prelu": ("PReLU", IMAGE, {"shared_axes": [1, 2]}),
    "elu": ("ELU", SEQUENCE, {"alpha": 0.7}),
    "softmax": ("Softmax", SEQUENCE, {}),
    "softmax_other_axis": ("Softmax", SEQUENCE, {"axis": 1}),
    "reshape": ("Reshape", IMAGE, {"target_shape": (9, -1, 2)}),
    "permute": ("Permute", IMAGE, {"dims": (2, 3, 1)}),
    "zero_padding": ("ZeroPadding2D", IMAGE, {"padding": ((1, 2), (0, 3))}),
    "zero_padding_1d": ("ZeroPadding1D", SEQUENCE, {"padding": (1, 2)}),
    "cropping": ("Cropping2D", IMAGE, {"cropping": ((1, 2), (0, 3))}),
    "cropping_1d": ("Cropping1D", SEQUENCE, {"cropping": (1, 2)}),
    "repeated": ("UpSampling2D", IMAGE, {"size": (2, 3)}),
    "repeated_1d": ("UpSampling1D", SEQUENCE, {"size": 3}),
    "repeated_vector": ("RepeatVector", (3, 5), {"n": 4}),
    "bilinear": ("UpSampling2D", (2, 5, 6, 3), {"size": (2, 3), "interpolation": "bilinear"}),
    "resized": ("Resizing", (2, 9, 6, 3), {"height": 5, "width": 8}),
    "resized_nearest": ("Resizing", (2, 5, 7, 3), {"height": 8, "width": 3, "interpolation": "nearest"}),
    "dense_of_a_sequence": ("Dense", SEQUENCE, {"units": 3, "activation": "softmax"}),
    "einsum": ("EinsumDense", SEQUENCE, {"equation": "abc,cd->abd", "output_shape": (None, 5)}),
    "identity": ("Identity", SEQUENCE, {}),
    "decay": ("ActivityRegularization", SEQUENCE, {"l2": 0.1}),
}
SEQUENCES: dict[str, tuple[str, tuple[int, ...], Settings]] = {
    "rnn": ("SimpleRNN", (3, 6, 2), {"units": 4}),
    "rnn_backwards": ("SimpleRNN", (3, 6, 2), {"units": 4, "go_backwards": True, "return_sequences": True}),
    "lstm": ("LSTM", (3, 6, 2), {"units": 4}),
    "lstm_of_one_step": ("LSTM", (1, 1, 2), {"units": 3, "unit_forget_bias": False}),
    "lstm_all_steps": ("LSTM", (3, 6, 2), {"units": 4, "return_sequences": True, "unroll": True}),
    "gru": ("GRU", (3, 6, 2), {"units": 4}),
    "gru_other_form": ("GRU", (3, 6, 2), {"units": 4, "reset_after": False}),
    "both_ways": ("Bidirectional", (3, 4, 2), {"layer": ("LSTM", {"units": 3})}),
    "each_step": ("TimeDistributed", (3, 4, 2), {"layer": ("Dense", {"units": 3})}),
}
# The layer's function, and the shape of each input.
MERGES: dict[str, tuple[str, tuple[int, ...], tuple[int, ...], Settings]] = {
    "add": ("Add", SEQUENCE, SEQUENCE, {}),
    "subtract": ("Subtract", SEQUENCE, SEQUENCE, {}),
    "multiply": ("Multiply", SEQUENCE, SEQUENCE, {}),
    "excite": ("Multiply", IMAGE, (2, 1, 1, 4), {}),  # as squeeze-and-excitation does
    "average": ("Average", SEQUENCE, SEQUENCE, {}),
    "maximum": ("Maximum", SEQUENCE, SEQUENCE, {}),
    "minimum": ("Minimum", SEQUENCE, SEQUENCE, {}),
    "concatenate": ("Concatenate", SEQUENCE, (2, 9, 3), {}),
    "concatenate_other_axis": ("Concatenate", SEQUENCE, (2, 5, 4), {"axis": 1}),
    "dot": ("Dot", (3, 5), (3, 5), {"axes": 1}),
    "multi_head_attention": (
        "MultiHeadAttention",
        SEQUENCE,
        (2, 5, 4),
        {"num_heads": 2, "key_dim": 3, "use_bias": False},  # a key's bias has no gradient but rounding
    ),
    "attention": ("Attention", SEQUENCE, (2, 5, 4), {}),
    "additive_attention": ("AdditiveAttention", SEQUENCE, (2, 5, 4), {}),
    "dot_of_sequences": ("Dot", (2, 9, 4), (2, 5, 4), {"axes": 2}),
}
ACTIVATIONS = (
    *("relu", "relu6", "leaky_relu", "elu", "selu", "silu", "gelu", "sigmoid", "tanh", "softmax", "softplus"),
    *("celu", "glu", "hard_shrink", "hard_tanh", "log_sigmoid", "soft_shrink", "squareplus", "tanh_shrink"),
    *("softsign", "hard_sigmoid", "hard_silu", "exponential", "mish", "log_softmax", "linear"),
)
FUNCTIONS = (
    "elementwise",
    "gelu_tanh",
    "slices",
    "powers",
    "parts",
    "extremes",
    "sums",
    "products",
    "products_transposed",
)


def layer_cases() -> list[Case]:
    """The same cases in the same order at every call."""
    rng = np.random.default_rng(40)
    return [*single_layers(rng), *activations(rng), *merges(rng), *embeddings(rng)]


def single_layers(rng: np.random.Generator) -> Iterator[Case]:
    for word, (kind, shape, settings) in (CONVOLUTIONS | OTHERS | SEQUENCES).items():
        yield Case(word, kind, {"x": normal(rng, *shape)}, settings)
    for word, (kind, shape, settings) in POOLINGS.items():
        exact = "Max" in kind and "Global" not in kind  # of global ones' ties each takes a share
        yield Case(word, kind, {"x": integers(rng, -2, 2, *shape)}, settings, exact=exact)


def activations(rng: np.random.Generator) -> Iterator[Case]:
    for name in ACTIVATIONS:
        x = np.concatenate([normal(rng, 3, 4) * 2, np.array([[0, -0.0, 9, -9]])], dtype=np.float32)
        yield Case(f"activation_{name}", "Activation", {"x": x}, {"activation": name})
    for name in FUNCTIONS:
        yield Case(name, "Lambda", {"x": normal(rng, 2, 5, 7 if name != "parts" else 6)}, {"function": name})


def merges(rng: np.random.Generator) -> Iterator[Case]:
    for word, (kind, first, second, settings) in MERGES.items():
        inputs = {"x": integers(rng, -2, 2, *first), "x2": integers(rng, -2, 2, *second)}
        yield Case(word, kind, inputs, settings)


def embeddings(rng: np.random.Generator) -> Iterator[Case]:
    numbers = rng.integers(0, 5, (3, 6)).astype(np.int32)
    settings = {"input_dim": 7, "output_dim": 3}
    yield Case("embedding", "Embedding", {"x": numbers}, settings)  # type: ignore[dict-item]
