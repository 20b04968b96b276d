"""Gradients of exported files, in every installed runtime, against TensorFlow's own differentiation."""

import pytest
from gradient_build import refusals
from gradient_cases import Case, all_cases, cases_by_file
from gradient_checks import Compared, compare, require_equal
from prepared import in_tensorflow

from fedfer.export.flatbuffer import is_builtin_only, op_census, signatures
from fedfer.export.runtime import available_runtimes

CASES = all_cases()
FILES = cases_by_file(CASES)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    return compare(tmp_path_factory.mktemp("gradients"), FILES)


@pytest.mark.parametrize("file", FILES)
def test_files_are_builtin_only(compared: Compared, file: str) -> None:
    content = (compared.directory / file).read_bytes()
    assert is_builtin_only(op_census(content))
    names = {signature.name for signature in signatures(content)}
    assert names == {case.name for case in FILES[file]}


@pytest.mark.parametrize("runtime", available_runtimes())
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_gradients_are_tensorflows(compared: Compared, case: Case, runtime: str) -> None:
    assert compared.expected[case.name].keys() >= case.inputs.keys()
    require_equal(case, compared.expected[case.name], compared.observed[runtime][case.name])


def test_what_cannot_be_exported_is_named() -> None:
    said = in_tensorflow(refusals)
    assert "only channels-last convolutions without groups" in said["groups"]
    assert "give the model an input shape with one" in said["image of unknown height"]
    assert "takes or adds examples of a batch; take all of them" in said["slice of a batch"]
    assert "places that are computed cannot be exported" in said["computed slice"]
