"""Small differentiable functions whose gradients are compared: settings and inputs, no TensorFlow.

A case is y = op(inputs); compared are y and the gradients of sum(y * cotangent) to every input and weight.
`exact` cases have small integers everywhere: every correct sum is exact in any order, and ties are many.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUM_SAMPLED_CONVOLUTIONS = 16
NUM_SAMPLED_POOLINGS = 16
CASES_PER_FILE = 16  # converting takes longer than in proportion


@dataclass(frozen=True)
class Case:
    """`op` names a function of gradient_graphs or a Keras layer; the first axis of `x` and `x2` is the batch,
    of unknown size."""

    name: str
    op: str
    inputs: dict[str, NDArray[np.float32]]
    settings: dict[str, Any] = field(default_factory=dict)
    exact: bool = False


def first_example(case: Case) -> dict[str, NDArray[np.float32]]:
    """The inputs with the first example only; {} where other inputs have the size of the batch."""
    if not case.inputs.keys() <= {"x", "x2", "w", "bias"}:
        return {}
    return {name: array[:1] if name in ("x", "x2") else array for name, array in case.inputs.items()}


def alone_name(name: str) -> str:
    """What a result is called when it comes from the first example alone."""
    return f"{name} of one"


def normal(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return rng.normal(size=shape).astype(np.float32)


def integers(rng: np.random.Generator, low: int, high: int, *shape: int) -> NDArray[np.float32]:
    return rng.integers(low, high + 1, shape).astype(np.float32)


def all_cases() -> list[Case]:
    """The same cases in the same order at every call."""
    rng = np.random.default_rng(20)
    return [
        *convolutions(rng),
        *poolings(rng),
        *average_poolings(rng),
        *rectifiers(rng),
        *elementwise(rng),
        *layers(rng),
    ]


def cases_by_file(cases: list[Case]) -> dict[str, list[Case]]:
    starts = range(0, len(cases), CASES_PER_FILE)
    return {f"gradients{start}.tflite": cases[start : start + CASES_PER_FILE] for start in starts}


def convolution(
    rng: np.random.Generator, x: tuple[int, ...], filters: tuple[int, ...], **settings: Any
) -> Case:
    """x (B,H,W,C), filters (kh,kw,C,F)."""
    words = "_".join(f"{key}{value}".replace(", ", "x") for key, value in settings.items())
    name = f"conv_{'x'.join(map(str, x))}_by_{'x'.join(map(str, filters))}_{words}"
    return Case(name, "conv", {"x": normal(rng, *x), "w": normal(rng, *filters)}, settings)


def convolutions(rng: np.random.Generator) -> Iterator[Case]:
    yield convolution(rng, (2, 48, 48, 1), (3, 3, 1, 4), padding="VALID")  # the article's first
    yield convolution(rng, (2, 10, 10, 8), (3, 3, 8, 16), padding="SAME")  # and the form of its others
    wide = np.random.default_rng(21)  # filters that are shared out to two products
    yield convolution(wide, (2, 4, 4, 320), (3, 3, 320, 320), padding="SAME")
    yield convolution(rng, (1, 1, 1, 3), (3, 3, 3, 2), padding="SAME")  # smaller than its filter
    yield convolution(rng, (2, 5, 7, 3), (1, 1, 3, 4), padding="SAME", strides=[2, 2])
    tiles = np.random.default_rng(21)  # of their own, so that the cases sampled below stay what they were
    for image, padding in (
        *(((7, 5), "VALID"), ((4, 4), "SAME")),  # in one product
        *(((8, 7), "SAME"), ((9, 10), "VALID"), ((10, 12), "SAME")),  # by tiles in one tensor, even and odd
        *(((13, 14), "SAME"), ((15, 13), "VALID")),  # by tiles, each in one of its own
    ):
        yield convolution(tiles, (2, *image, 32), (3, 3, 32, 33), padding=padding)
    for _ in range(NUM_SAMPLED_CONVOLUTIONS):
        kernel, strides = rng.integers(1, 6, 2).tolist(), rng.integers(1, 3, 2).tolist()
        dilation = int(rng.integers(1, 3)) if strides == [1, 1] else 1
        reach = [(k - 1) * dilation + 1 for k in kernel]
        size = [r + int(more) for r, more in zip(reach, rng.integers(0, 6, 2), strict=True)]
        batch, channels, filters = rng.integers(1, 5, 3).tolist()
        yield convolution(
            rng,
            (batch, *size, channels),
            (*kernel, channels, filters),
            padding=str(rng.choice(["SAME", "VALID"])),
            strides=strides,
            dilations=[dilation] * 2,
        )


def pooling(rng: np.random.Generator, x: tuple[int, ...], levels: int, **settings: Any) -> Case:
    """x holds integers of `levels` levels below and above 0: the fewer, the more ties."""
    words = "_".join(f"{key}{value}".replace(", ", "x") for key, value in settings.items())
    name = f"pool_{'x'.join(map(str, x))}_levels{levels}_{words}"
    return Case(name, "pool", {"x": integers(rng, -levels, levels, *x)}, settings, exact=True)


def poolings(rng: np.random.Generator) -> Iterator[Case]:
    yield pooling(rng, (2, 46, 46, 2), 2, window=[3, 3], stride=2, padding="VALID")  # the article's
    yield pooling(rng, (1, 4, 4, 2), 1, window=[3, 3], stride=2, padding="VALID")
    yield pooling(rng, (2, 7, 7, 2), 0, window=[3, 3], stride=2, padding="SAME")  # nothing but ties
    yield pooling(rng, (3, 8, 8, 1), 1, window=[2, 2], stride=3, padding="SAME")  # places between windows
    for _ in range(NUM_SAMPLED_POOLINGS):
        window, stride = rng.integers(2, 4, 2).tolist(), int(rng.integers(1, 4))
        size = [w + int(more) for w, more in zip(window, rng.integers(0, 6, 2), strict=True)]
        batch, channels, levels = int(rng.integers(1, 3)), int(rng.integers(1, 4)), int(rng.integers(1, 5))
        padding = str(rng.choice(["SAME", "VALID"]))
        yield pooling(rng, (batch, *size, channels), levels, window=window, stride=stride, padding=padding)


def average_poolings(rng: np.random.Generator) -> Iterator[Case]:
    for size, window, stride, padding in (
        ((7, 9), [2, 3], 2, "SAME"),
        ((8, 8), [2, 2], 2, "VALID"),
        ((7, 5), [3, 3], 1, "SAME"),
        ((8, 9), [2, 2], 3, "VALID"),  # places between windows
    ):
        name = f"average_pool_{size[0]}x{size[1]}_{window[0]}x{window[1]}_stride{stride}_{padding}"
        settings = {"window": window, "stride": stride, "padding": padding}
        yield Case(name, "average_pool", {"x": normal(rng, 2, *size, 3)}, settings)


def depthwise(rng: np.random.Generator) -> Iterator[Case]:
    for size, window, stride, padding in (
        ((7, 9), (3, 3), 1, "SAME"),
        ((8, 7), (3, 3), 2, "SAME"),
        ((9, 9), (2, 3), 2, "VALID"),
    ):
        name = f"depthwise_{size[0]}x{size[1]}_{window[0]}x{window[1]}_stride{stride}_{padding}"
        inputs = {"x": normal(rng, 2, *size, 3), "w": normal(rng, *window, 3, 1)}
        yield Case(name, "depthwise", inputs, {"stride": stride, "padding": padding})


def rectifiers(rng: np.random.Generator) -> Iterator[Case]:
    yield Case("relu6", "relu6", {"x": integers(rng, -2, 8, 4, 5, 6)}, exact=True)
    yield Case("relu_exact_zeros", "relu", {"x": integers(rng, -1, 1, 4, 5, 6)}, exact=True)
    least = np.finfo(np.float32).tiny
    edges = np.array([[0.0, -0.0, least, -least, 1.5 * least, 1e-30, 1.0, -1.0, 3e38, -3e38]], np.float32)
    yield Case("relu_smallest_and_largest", "relu", {"x": edges}, exact=True)
    yield Case("relu_then_pool", "relu_pool", {"x": integers(rng, -3, 1, 2, 9, 9, 2)}, exact=True)
    residual = {"x": normal(rng, 2, 6, 6, 3), "w": normal(rng, 3, 3, 3, 3)}
    yield Case("residual", "residual", residual)


def elementwise(rng: np.random.Generator) -> Iterator[Case]:
    shapes = {
        "same": (3, 4, 5),
        "last": (5,),
        "middle": (4, 1),
        "scalar": (),
        "front": (1, 4, 5),
        "ones": (1, 1, 1),
    }
    for op in ("add", "sub", "mul", "div", "squared_difference"):
        for word, shape in shapes.items():
            y = normal(rng, *shape)
            away_from_0 = (np.sign(y) * (np.abs(y) + 0.5)).astype(np.float32)
            yield Case(f"{op}_{word}", op, {"x": normal(rng, 3, 4, 5), "y": away_from_0})
        yield Case(f"{op}_turned", op, {"y": normal(rng, 3, 4), "x": normal(rng, 2, 3, 4) + np.float32(9)})
    yield Case("bias_add_4d", "bias_add", {"x": normal(rng, 2, 3, 4, 5), "bias": normal(rng, 5)})
    yield Case("bias_add_2d", "bias_add", {"x": normal(rng, 7, 5), "bias": normal(rng, 5)})
    yield Case("reshape", "reshape", {"x": normal(rng, 2, 3, 4)}, {"shape": [-1, 12]})
    yield Case("reshape_to_image", "reshape", {"x": normal(rng, 2, 12)}, {"shape": [-1, 2, 2, 3]})


def layers(rng: np.random.Generator) -> Iterator[Case]:
    image, half = normal(rng, 3, 5, 4, 6) * 2 + 1, {"momentum": 0.5}
    yield Case("batch_norm_4d", "BatchNormalization", {"x": image}, half)
    yield Case("batch_norm_2d", "BatchNormalization", {"x": normal(rng, 8, 6)}, half)
    yield Case("batch_norm_of_one_image", "BatchNormalization", {"x": image[:1]}, half)
    yield Case("batch_norm_far_from_0", "BatchNormalization", {"x": normal(rng, 4, 6, 6, 3) + 5}, half)
    yield Case("batch_norm_without_scale", "BatchNormalization", {"x": image}, {**half, "scale": False})
    yield Case("batch_norm_without_center", "BatchNormalization", {"x": image}, {**half, "center": False})
    yield from convolution_layers(rng)
    yield Case("dense", "Dense", {"x": normal(rng, 4, 6)}, {"units": 5, "activation": "relu"})
    yield Case("dense_of_images", "Dense", {"x": normal(rng, 2, 3, 3, 4)}, {"units": 5})
    yield Case("flatten", "Flatten", {"x": normal(rng, 2, 3, 4, 5)})


def convolution_layers(rng: np.random.Generator) -> Iterator[Case]:
    """Keras's layer, which the phone runs in another form than tf.nn.conv2d when its stride is 1."""
    kinds: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
        "first": ((2, 12, 12, 1), {"kernel_size": 3, "padding": "valid", "activation": "relu"}),
        "same": ((2, 6, 5, 8), {"kernel_size": 3, "padding": "same", "activation": "relu"}),
        "deep": ((2, 4, 4, 65), {"kernel_size": 3, "padding": "same"}),
        "even": ((3, 7, 6, 2), {"kernel_size": (2, 4), "padding": "same", "use_bias": False}),
        "point": ((3, 5, 5, 3), {"kernel_size": 1}),
        "large_for_its_image": ((1, 2, 3, 2), {"kernel_size": 5, "padding": "same"}),
        "dilated": ((2, 9, 8, 2), {"kernel_size": (3, 2), "dilation_rate": 2, "padding": "same"}),
        "dilated_valid": ((2, 9, 8, 2), {"kernel_size": 3, "dilation_rate": (2, 3)}),
        "strided": ((2, 7, 8, 3), {"kernel_size": 3, "strides": 2, "padding": "same"}),
    }
    for word, (shape, settings) in kinds.items():
        yield Case(f"conv_layer_{word}", "Conv2D", {"x": normal(rng, *shape)}, {"filters": 4, **settings})


def cotangent(case: Case, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """dy of y's shape: small integers in exact cases."""
    rng = np.random.default_rng([ord(letter) for letter in case.name])
    return integers(rng, -8, 8, *shape) if case.exact else normal(rng, *shape)
