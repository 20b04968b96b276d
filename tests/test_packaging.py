"""What is shipped: the contents of the wheel and of the sdist, and a lock file that installs nothing else.

Built by hatchling as pip does, from this tree, without a network.
"""

import email
import re
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXTRAS = {"export", "serve", "postgres", "s3", "devices", "plot", "ray", "all"}
PACKAGES = ("model", "export", "aggregator", "android_stub", "cli")
VERSION = version("fedfer")
DIST_INFO = f"fedfer-{VERSION}.dist-info"
METADATA_FILES = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}


def sources() -> set[str]:
    """Modules, their TOML files and py.typed markers of the package directories, as paths from the root."""
    return {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix in (".py", ".css", ".jinja", ".toml") or path.name == "py.typed"
    }


def hatchling(target: str, source: Path, output: Path) -> Path:
    """The one file that `hatchling build` makes of a source tree."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(output)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = output.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hatchling("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hatchling("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def unpacked(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(directory, filter="data")
    return directory / f"fedfer-{VERSION}"


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return email.message_from_bytes(archive.read(f"{DIST_INFO}/METADATA"))


def test_wheel_holds_exactly_the_modules(wheel: Path) -> None:
    modules = {f"fedfer/{source}" for source in sources()}
    assert {f"fedfer/{package}/py.typed" for package in PACKAGES} < modules
    assert names_in(wheel) == modules | {f"{DIST_INFO}/{name}" for name in METADATA_FILES}
    assert wheel.name == f"fedfer-{VERSION}-py3-none-any.whl"


def test_wheel_metadata(wheel: Path) -> None:
    metadata = metadata_of(wheel)
    assert (metadata["Name"], metadata["Version"]) == ("fedfer", VERSION)
    assert (metadata["License-Expression"], metadata["Requires-Python"]) == ("Apache-2.0", ">=3.11")
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert set(metadata.get_all("Provides-Extra", [])) == EXTRAS
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert not any(line.startswith(("tensorflow", "fastapi", "httpx", "matplotlib")) for line in required)
    with zipfile.ZipFile(wheel) as archive:
        assert b"fedfer = fedfer.cli.main:main" in archive.read(f"{DIST_INFO}/entry_points.txt")
        licence = archive.read(f"{DIST_INFO}/licenses/LICENSE").decode()
    assert "Apache License" in licence
    assert "Version 2.0, January 2004" in licence


def test_wheel_runs_from_where_it_is_unpacked(wheel: Path, tmp_path: Path) -> None:
    """Without the editable install's links: only the wheel's own files are on the path before the venv's."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        f"import sys; sys.path[:] = [{str(tmp_path)!r}] + [p for p in sys.path if '.editable' not in p]\n"
        "import fedfer.cli.main as main\n"
        f"assert main.__file__.startswith({str(tmp_path)!r}), main.__file__\n"
        "main.main(['--version'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == (f"fedfer {VERSION}\n", "")


def test_sdist_holds_what_is_needed_to_build_and_test(unpacked: Path) -> None:
    held = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    assert sources() <= held
    for name in (
        "pyproject.toml",
        "editable_links.py",
        "Makefile",
        "requirements.lock",
        "README.md",
        "LICENSE",
    ):
        assert name in held
    tests = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py")}
    assert tests <= held
    assert "docs/protocol.md" in held
    assert not [
        name for name in held if name.endswith((".tflite", ".safetensors", ".db", ".pyc", ".csv", ".gz"))
    ]


def test_wheel_of_the_sdist_is_the_same(wheel: Path, unpacked: Path, tmp_path: Path) -> None:
    again = hatchling("wheel", unpacked, tmp_path)
    assert names_in(again) == names_in(wheel)
    assert again.name == wheel.name
    with zipfile.ZipFile(again) as one, zipfile.ZipFile(wheel) as other:
        for name in one.namelist():
            if name.startswith("fedfer/"):
                assert one.read(name) == other.read(name), name


def test_editable_install_links_every_package() -> None:
    links = {path.name: path.resolve() for path in (ROOT / ".editable" / "fedfer").iterdir()}
    assert links == {package: ROOT / package for package in PACKAGES}
    assert not (ROOT / "fedfer").exists()  # it would hide them


def locked() -> list[str]:
    """Entries of requirements.lock, continuation lines joined, comments left out."""
    text = (ROOT / "requirements.lock").read_text().replace("\\\n", " ")
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def test_lock_has_a_hash_for_everything_and_names_no_address() -> None:
    assert len(locked()) > 40
    for line in locked():
        assert re.match(r"^[a-z0-9][a-z0-9._-]*==[^ ]+ ", line), line
        assert re.search(r"--hash=sha256:[0-9a-f]{64}( |$)", line), line
    text = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"://|--(extra-)?index-url|--find-links|--trusted-host|@ ", text)


def test_lock_names_every_direct_requirement(wheel: Path) -> None:
    """Of the package and of its extras: an entry for each, so that `--no-deps` leaves nothing out."""
    pinned = {re.split("==", line)[0] for line in locked()}
    wanted = {
        re.split(r"[^a-z0-9-]", line.lower(), maxsplit=1)[0]
        for line in metadata_of(wheel).get_all("Requires-Dist", [])
    } - {"fedfer"}
    assert wanted <= pinned
    assert {"pytest", "hypothesis", "mypy", "ruff", "hatchling"} <= pinned
