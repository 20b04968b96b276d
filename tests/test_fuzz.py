"""The fuzzer of the update reader runs, for seconds here and for as long as one likes by hand."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

FUZZER = Path(__file__).parent / "fuzz" / "fuzz_checkpoint.py"
FUZZ_SEC = 10
pytestmark = pytest.mark.skipif(find_spec("atheris") is None, reason="atheris has no wheel for this system")


def fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FUZZER), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=FUZZ_SEC + 120)


def test_nothing_breaks_the_update_reader(tmp_path: Path) -> None:
    done = fuzz(str(FUZZ_SEC), str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    runs = re.search(r"^Done (\d+) runs", done.stderr, re.MULTILINE)
    assert runs
    assert int(runs[1]) > 1000
    assert not list(tmp_path.glob("crash-*"))


@pytest.mark.parametrize("check", ["_check_model", "_check_values", "_check_specs"])
def test_the_fuzzer_finds_a_check_that_was_taken_out(tmp_path: Path, check: str) -> None:
    sabotaged = tmp_path / "fuzz_sabotaged.py"
    source = FUZZER.read_text().replace("Path(__file__).parents[1]", repr(str(FUZZER.parents[1])))
    fault = f"checkpoint.{check} = lambda *_: None"
    sabotaged.write_text(source.replace("\nclass Reader:", f"\n{fault}\n\nclass Reader:"))
    command = [sys.executable, str(sabotaged), "60", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode != 0
    assert list(tmp_path.glob("crash-*"))
