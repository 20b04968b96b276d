"""What a training step was measured on: processor, its instruction sets, versions, commit, load."""

import os
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

INSTRUCTION_SETS = ("avx2", "fma", "avx512f", "avx512_vnni", "amx_tile", "asimd")
PACKAGES = ("tensorflow", "tensorflow-cpu", "keras", "tflite-runtime", "ai-edge-litert", "numpy")


def describe(pythons: dict[str, Path]) -> dict[str, str]:
    """For people, and for the JSON. `pythons`: of each engine; some have packages of their own."""
    versions = {name: found for name in PACKAGES if (found := _installed(name))}
    for name, package, shown in (
        ("flex", "tensorflow-cpu", "tensorflow of flex"),
        ("pytorch", "torch", "torch"),
    ):
        if name in pythons:
            code = f"from importlib.metadata import version; print(version({package!r}))"
            versions[shown] = _said(pythons[name], "-c", code)
    return {
        **processor(Path("/proc/cpuinfo").read_text()),
        "cores": str(os.cpu_count()),
        "versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
        "oneDNN": "on for Flex; Keras as its rows say",
        "commit": _said("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "load average before": load_average(),
    }


def processor(cpuinfo: str) -> dict[str, str]:
    """Name and instruction sets that matter here, of what /proc/cpuinfo says."""
    name = re.search(r"^model name\s*: (.*)$", cpuinfo, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*: (.*)$", cpuinfo, re.MULTILINE)
    held = flags[1].split() if flags else []
    return {
        "processor": name[1] if name else "unknown",
        "instruction sets": ", ".join(flag for flag in INSTRUCTION_SETS if flag in held) or "unknown",
    }


def load_average() -> str:
    return " ".join(f"{load:.1f}" for load in os.getloadavg())


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _said(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
