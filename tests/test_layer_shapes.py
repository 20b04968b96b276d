"""Layers of any size and setting in exported files, against TensorFlow: many cases in a conversion."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from gradient_cases import Case, cases_by_file, integers, normal
from gradient_checks import compare, require_equal
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fedfer.export.flatbuffer import is_builtin_only, op_census

NUM_CASES = 14  # in one conversion, which costs seconds whatever is in it
PADDING = st.sampled_from(["same", "valid"])
small, tiny = st.integers(1, 4), st.integers(1, 3)


def pair(strategy: st.SearchStrategy[int]) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(strategy, strategy)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[str, tuple[int, ...], dict[str, Any]]:
    """Layer, shape of its input, settings; never an empty output."""
    kernel, groups = draw(pair(small)), draw(tiny)
    strides = draw(pair(tiny))
    dilation = draw(tiny) if strides == (1, 1) else 1
    size = [(k - 1) * dilation + 1 + draw(st.integers(0, 6)) for k in kernel]
    settings = {"kernel_size": kernel, "strides": strides, "padding": draw(PADDING), "groups": groups}
    settings |= {"filters": groups * draw(tiny), "dilation_rate": dilation, "use_bias": draw(st.booleans())}
    return "Conv2D", (draw(small), *size, groups * draw(tiny)), settings


@st.composite
def depthwise(draw: st.DrawFn) -> tuple[str, tuple[int, ...], dict[str, Any]]:
    kernel, stride = draw(pair(small)), draw(tiny)
    size = [k + draw(st.integers(0, 6)) for k in kernel]
    settings = {
        "kernel_size": kernel,
        "strides": stride,
        "padding": draw(PADDING),
        "depth_multiplier": draw(tiny),
    }
    return "DepthwiseConv2D", (draw(small), *size, draw(small)), settings


@st.composite
def transposed(draw: st.DrawFn) -> tuple[str, tuple[int, ...], dict[str, Any]]:
    settings = {"kernel_size": draw(pair(small)), "strides": draw(pair(tiny)), "padding": draw(PADDING)}
    shape = (draw(small), *draw(pair(small)), draw(tiny))
    return "Conv2DTranspose", shape, settings | {"filters": draw(tiny)}


@st.composite
def poolings(draw: st.DrawFn) -> tuple[str, tuple[int, ...], dict[str, Any]]:
    window = draw(pair(small))
    size = [k + draw(st.integers(0, 6)) for k in window]
    settings = {"pool_size": window, "strides": draw(pair(small)), "padding": draw(PADDING)}
    kind = draw(st.sampled_from(["MaxPooling2D", "AveragePooling2D"]))
    return kind, (draw(small), *size, draw(small)), settings


@st.composite
def sequences(draw: st.DrawFn) -> tuple[str, tuple[int, ...], dict[str, Any]]:
    kind = draw(st.sampled_from(["LSTM", "GRU", "SimpleRNN"]))
    settings = {
        "units": draw(small),
        "return_sequences": draw(st.booleans()),
        "go_backwards": draw(st.booleans()),
    }
    return kind, (draw(small), draw(small), draw(small)), settings


@st.composite
def normalisations(draw: st.DrawFn) -> tuple[str, tuple[int, ...], dict[str, Any]]:
    # Of two numbers nothing is left but their signs: the gradient is 0 but for epsilon and rounding.
    shape = (draw(small), draw(small) + 1, draw(small), draw(tiny) * 2 + 2)
    if draw(st.booleans()):
        return "GroupNormalization", shape, {"groups": draw(st.sampled_from([1, 2]))}
    return "LayerNormalization", shape, {"axis": draw(st.sampled_from([[-1], [1, 3], [1, 2, 3]]))}


ANY = st.one_of(convolutions(), depthwise(), transposed(), poolings(), sequences(), normalisations())


@settings(
    max_examples=3,
    derandomize=True,  # which cases come is no matter of luck: a conversion takes long, so they are few
    phases=[Phase.explicit, Phase.generate],  # smaller cases do not convert faster
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
)
@given(st.lists(ANY, min_size=NUM_CASES, max_size=NUM_CASES), st.integers(0, 2**32 - 1))
def test_layers_of_any_size(drawn: list[tuple[str, tuple[int, ...], dict[str, Any]]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    cases = []
    for number, (kind, shape, layer) in enumerate(drawn):
        exact = kind == "MaxPooling2D"  # ties are many
        x = integers(rng, -2, 2, *shape) if exact else normal(rng, *shape)
        cases.append(Case(f"{kind}_{number}", kind, {"x": x}, layer, exact=exact))
    with tempfile.TemporaryDirectory() as directory:
        compared = compare(Path(directory), cases_by_file(cases))
        for path in Path(directory).iterdir():
            assert is_builtin_only(op_census(path.read_bytes()))
    for case in cases:
        for observed in compared.observed.values():
            require_equal(case, compared.expected[case.name], observed[case.name])
