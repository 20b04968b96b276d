"""Building cases, running them in every runtime and comparing: what the tests of gradients share."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gradient_build import Arrays, build_files
from gradient_cases import Case
from gradient_runs import observed_gradients
from prepared import call_isolated, in_tensorflow

from fedfer.export.runtime import available_runtimes

TOLERANCE = 1e-5  # of a gradient's largest element
# A sum over so many numbers has rounding of its own: a gradient that is zero but for it says nothing.
NOTHING = 1e-6
# A gradient that is so small beside its layer's largest is a difference of larger terms, with their rounding.
SMALL_SHARE = 0.01


@dataclass(frozen=True)
class Compared:
    """Files with a signature for each case; gradients by case and input."""

    directory: Path
    expected: dict[str, Arrays]
    observed: dict[str, dict[str, Arrays]]  # by runtime


def compare(directory: Path, files: dict[str, list[Case]]) -> Compared:
    """TensorFlow's gradients, and those of the converted files in each runtime."""
    built = in_tensorflow(build_files, directory, files)
    cotangents = {name: dy for name, (_, dy) in built.items()}
    observed = {
        runtime: call_isolated(observed_gradients, directory, files, runtime, cotangents)
        for runtime in available_runtimes()
    }
    return Compared(directory, {name: gradients for name, (gradients, _) in built.items()}, observed)


def require_equal(case: Case, expected: Arrays, observed: Arrays) -> None:
    """Asserts that y, gradients and statistics agree; of the first example alone statistics are not known."""
    assert observed.keys() >= expected.keys() >= {"result"}
    largest = max(np.abs(gradient).max(initial=0) for gradient in expected.values())
    for name, gradient in expected.items():
        assert observed[name].shape == gradient.shape
        if case.exact:
            np.testing.assert_array_equal(observed[name], gradient, err_msg=name)
        else:
            difference = np.abs(observed[name] - gradient).max(initial=0)
            scale = max(np.abs(gradient).max(initial=NOTHING), SMALL_SHARE * largest)
            assert difference <= TOLERANCE * scale, name
