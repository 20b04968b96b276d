"""Gradients of exported files, in every installed runtime, against TensorFlow's own differentiation."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from gradient_build import Arrays, build_files, refusals
from gradient_cases import Case, all_cases, cases_by_file
from gradient_runs import observed_gradients

from fedfer.export.flatbuffer import is_builtin_only, op_census, signatures
from fedfer.export.isolation import call_isolated
from fedfer.export.runtime import available_runtimes

TOLERANCE = 1e-5  # of a gradient's largest element
CASES = all_cases()


@dataclass(frozen=True)
class Compared:
    """Files with a signature for each case; gradients by case and input."""

    directory: Path
    expected: dict[str, Arrays]
    observed: dict[str, dict[str, Arrays]]  # by runtime


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    directory = tmp_path_factory.mktemp("gradients")
    built = call_isolated(build_files, directory)
    cotangents = {name: dy for name, (_, dy) in built.items()}
    observed = {
        runtime: call_isolated(observed_gradients, directory, runtime, cotangents)
        for runtime in available_runtimes()
    }
    return Compared(directory, {name: gradients for name, (gradients, _) in built.items()}, observed)


@pytest.mark.parametrize("file", cases_by_file())
def test_files_are_builtin_only(compared: Compared, file: str) -> None:
    content = (compared.directory / file).read_bytes()
    assert is_builtin_only(op_census(content))
    names = {signature.name for signature in signatures(content)}
    assert names == {case.name for case in cases_by_file()[file]}


@pytest.mark.parametrize("runtime", available_runtimes())
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_gradients_are_tensorflows(compared: Compared, case: Case, runtime: str) -> None:
    expected, observed = compared.expected[case.name], compared.observed[runtime][case.name]
    assert observed.keys() == expected.keys() >= case.inputs.keys()
    for name, gradient in expected.items():
        assert observed[name].shape == gradient.shape
        if case.exact:
            np.testing.assert_array_equal(observed[name], gradient, err_msg=name)
        else:
            difference = np.abs(observed[name] - gradient).max(initial=0)
            assert difference <= TOLERANCE * np.abs(gradient).max(initial=0), name


def test_what_cannot_be_exported_is_named() -> None:
    said = call_isolated(refusals)
    assert "strides (1, 2) differ; expected equal ones" in said["unequal pooling strides"]
    assert "cannot be exported; use one of them" in said["stride and dilation"]
    assert "only channels-last convolutions without groups" in said["groups"]
    assert "give the model an input shape with one" in said["image of unknown height"]
