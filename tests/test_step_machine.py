"""What a benchmark says of the machine that it ran on."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]
X86 = """processor\t: 0
model name\t: AMD EPYC
flags\t\t: fpu fma avx avx2 sha_ni

processor\t: 1
model name\t: AMD EPYC
flags\t\t: fpu
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd\n"


def test_the_processor_is_named_with_the_instruction_sets_that_matter() -> None:
    processor = runpy.run_path(str(ROOT / "benchmarks" / "step_machine.py"))["processor"]
    assert processor(X86) == {"processor": "AMD EPYC", "instruction sets": "avx2, fma"}
    assert processor(ARM) == {"processor": "unknown", "instruction sets": "asimd"}
