"""Who imports whom: the parts' order, no TensorFlow in servers and devices, nothing heavy for `--help`."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from fedfer.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
PARTS = ("model", "export", "aggregator", "android_stub", "cli")
TENSORFLOW_ROOTS = {"tensorflow", "keras"}
MAY_IMPORT = {
    "model": {"model"},
    "export": {"model", "export"},
    "aggregator": {"model", "export", "aggregator"},
    "android_stub": {"model", "export", "android_stub"},
    "cli": set(PARTS),
}
LIGHT_EXPORT = (
    "checkpoint",
    "contract",
    "flatbuffer",
    "runtime",
    "check",
    "engine",
    "engines",
    "quiet",
    "evaluation",
    "isolation",
    "loss_settings",
    "optimizer_settings",
    "inference_card",
    "inference_run",
    "targets",
    "waves",
)


def modules_of(part: str) -> list[Path]:
    return sorted((ROOT / part).rglob("*.py"))


def name_of(path: Path) -> str:
    return "fedfer." + path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")


def path_of(module: str) -> Path:
    return ROOT / Path(*module.split(".")[1:]).with_suffix(".py")


def imports_in(nodes: Iterator[ast.AST]) -> set[str]:
    """Full names that these nodes import; of ours, `from a.b import c` is a.b.c where that is a module."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            names |= {_module(f"{node.module}.{alias.name}", str(node.module)) for alias in node.names}
    return names


def _module(full: str, parent: str) -> str:
    if not full.startswith("fedfer."):
        return parent
    return full if path_of(full).exists() else parent


def all_imports(path: Path) -> set[str]:
    return imports_in(ast.walk(ast.parse(path.read_text())))


def at_module_level(path: Path) -> set[str]:
    """What is imported when the module is: everything outside functions and `if TYPE_CHECKING`."""

    def runs(node: ast.AST) -> bool:
        if isinstance(node, ast.If):
            return not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING")
        return not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)

    def walk(node: ast.AST) -> Iterator[ast.AST]:
        for child in filter(runs, ast.iter_child_nodes(node)):
            yield child
            yield from walk(child)

    return imports_in(walk(ast.parse(path.read_text())))


@cache
def tensorflow_modules() -> set[str]:
    """Our modules that load TensorFlow when imported, directly or through others of ours."""
    imported = {name_of(path): at_module_level(path) for part in PARTS for path in modules_of(part)}
    found = {name for name, names in imported.items() if {n.split(".")[0] for n in names} & TENSORFLOW_ROOTS}
    while more := {name for name, names in imported.items() if names & found} - found:
        found |= more
    return found


def test_the_walk_sees_what_it_should() -> None:
    assert "fedfer.export.contract" in at_module_level(ROOT / "export" / "runtime.py")
    assert "fedfer.export.tflite" in all_imports(ROOT / "cli" / "export.py")
    assert "fedfer.export.tflite" not in at_module_level(ROOT / "cli" / "export.py")
    assert {"fedfer.model.vgg", "fedfer.export.tflite", "fedfer.export.signatures"} <= tensorflow_modules()


@pytest.mark.parametrize("part", PARTS)
def test_parts_import_only_what_lies_before_them(part: str) -> None:
    for path in modules_of(part):
        used = {name.split(".")[1] for name in all_imports(path) if name.startswith("fedfer.")}
        assert used <= MAY_IMPORT[part], path


@pytest.mark.parametrize("part", PARTS)
def test_no_part_is_imported_without_its_namespace(part: str) -> None:
    for path in modules_of(part):
        assert {name.split(".")[0] for name in all_imports(path)}.isdisjoint(PARTS), path


@pytest.mark.parametrize("part", ["aggregator", "android_stub"])
def test_servers_and_devices_import_no_tensorflow_anywhere(part: str) -> None:
    """Not inside functions either."""
    for path in modules_of(part):
        used = all_imports(path)
        assert used.isdisjoint(tensorflow_modules()), path
        assert {name.split(".")[0] for name in used}.isdisjoint(TENSORFLOW_ROOTS), path


def test_only_vgg_and_export_hold_tensorflow() -> None:
    light = {f"fedfer.export.{name}" for name in LIGHT_EXPORT}
    for name in tensorflow_modules():
        assert name in ("fedfer.model.vgg", "fedfer.model.mnist") or name.startswith("fedfer.export."), name
        assert name not in light


def loaded_for_help() -> set[str]:
    """Our modules that `fedfer --help` imports, directly or through others of ours."""
    found: set[str] = set()
    left = {"fedfer.cli.main", *(f"fedfer.cli.{command}" for command in COMMANDS)}
    while left:
        found |= left
        names = {name for module in left for name in at_module_level(path_of(module))}
        left = {name for name in names if name.startswith("fedfer.") and path_of(name).exists()} - found
    return found


@pytest.mark.parametrize("module", sorted(loaded_for_help()))
def test_commands_import_at_module_level_only_what_is_light(module: str) -> None:
    roots = {name.split(".")[0] for name in at_module_level(path_of(module))}
    assert roots - {"fedfer"} <= sys.stdlib_module_names


def test_importing_all_that_servers_and_devices_use_loads_no_tensorflow() -> None:
    """In a process of its own: what the packages underneath import counts too."""
    names = [name_of(path) for part in ("aggregator", "android_stub", "cli") for path in modules_of(part)]
    names += [name_of(path) for path in modules_of("model") if path.stem not in ("vgg", "mnist")]
    names.remove("fedfer.aggregator.migrations.env")  # alembic's script: migrates when it is imported
    names += [f"fedfer.export.{name}" for name in LIGHT_EXPORT]
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
        "print(*{name.partition('.')[0] for name in sys.modules})\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    loaded = set(done.stdout.split())
    assert loaded.isdisjoint({*TENSORFLOW_ROOTS, "tflite_runtime", "ai_edge_litert"})
    assert {"fedfer", "fastapi", "httpx", "numpy"} <= loaded


def test_this_process_is_free_of_tensorflow_and_interpreters() -> None:
    """Tests themselves keep the rule; they would otherwise fail in an order that depends on chance."""
    loaded = {name.partition(".")[0] for name in sys.modules}
    assert loaded.isdisjoint({*TENSORFLOW_ROOTS, "tflite_runtime", "ai_edge_litert"})
