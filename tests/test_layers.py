"""Every supported Keras layer in exported files, in every runtime, against TensorFlow's differentiation."""

import pytest
from gradient_cases import Case, cases_by_file
from gradient_checks import Compared, compare, require_equal
from layer_cases import layer_cases
from static_shapes import computed_shapes

from fedfer.export.flatbuffer import is_builtin_only, op_census
from fedfer.export.runtime import available_runtimes

CASES = layer_cases()
FILES = cases_by_file(CASES)
COMPUTING = {"RANGE", "FILL", "BROADCAST_TO", "WHILE", "IF"}


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    return compare(tmp_path_factory.mktemp("layers"), FILES)


@pytest.mark.parametrize("runtime", available_runtimes())
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_gradients_are_tensorflows(compared: Compared, case: Case, runtime: str) -> None:
    require_equal(case, compared.expected[case.name], compared.observed[runtime][case.name])


@pytest.mark.parametrize("file", FILES)
def test_files_are_builtin_only_and_compute_no_shapes(compared: Compared, file: str) -> None:
    content = (compared.directory / file).read_bytes()
    assert is_builtin_only(op_census(content))
    assert op_census(content).keys() & COMPUTING == set()
    assert computed_shapes(content) == []
