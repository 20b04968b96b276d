"""What the documents say against what there is: commands, options, files, refusal codes, images."""

import argparse
import ast
import re
import shlex
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

from fedfer.cli.main import COMMANDS, build_parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS_TEXT = (ROOT / "docs/commands.md").read_text()
GUIDE = README + COMMANDS_TEXT
PACKAGES = ("model", "export", "aggregator", "android_stub", "cli")
# Status and codes in the protocol's table of refusals.
REFUSAL_ROW = re.compile(r"^\| \d{3} \| (.*?) \|", re.MULTILINE)


def blocks(kind: str, text: str) -> list[str]:
    """A document's fenced code blocks of one kind: sh or text."""
    return re.findall(rf"^```{kind}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def command_lines() -> list[tuple[str, ...]]:
    """Every `fedfer ...` of the README and of docs/commands.md, as words, with its continued lines."""
    lines = [line for block in blocks("sh", GUIDE) for line in block.replace("\\\n", " ").splitlines()]
    found = [shlex.split(line.rstrip("& ")) for line in lines if line.startswith("fedfer ")]
    found += [shlex.split(text.rstrip("& ")) for text in re.findall(r"`(fedfer \w[^`]*? [^`]*)`", GUIDE)]
    return list(dict.fromkeys(map(tuple, found)))


def parser_of(command: str) -> argparse.ArgumentParser:
    (action,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    parser: argparse.ArgumentParser = action.choices[command]
    return parser


def test_every_command_has_an_example() -> None:
    assert {words[1] for words in command_lines()} == set(COMMANDS)
    assert all(f"\n## {command}: " in COMMANDS_TEXT for command in COMMANDS)


@pytest.mark.parametrize("words", command_lines(), ids=" ".join)
def test_examples_are_commands_that_the_parser_takes(words: tuple[str, ...]) -> None:
    """Long options in full: argparse takes beginnings of names, which may become ambiguous."""
    if "--help" not in words and "..." not in words:
        build_parser().parse_args(words[1:])
    known = {option for action in parser_of(words[1])._actions for option in action.option_strings}
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known


def test_the_shell_blocks_hold_more_than_a_handful_of_commands() -> None:
    """Guards the tests above against documents whose blocks they do not find."""
    assert len(command_lines()) >= len(COMMANDS)
    assert any("--holdout" in words for words in command_lines())


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", GUIDE, re.MULTILINE))
    assert {"demo", "test"} <= named <= targets


def tree() -> Iterator[str]:
    """The paths in docs/tree.md; a file that is indented belongs to the directory above it."""
    (block,) = blocks("text", (ROOT / "docs/tree.md").read_text())
    directory = ""
    for line in block.splitlines():
        name = line.split()[0]
        if not line.startswith(" "):
            directory = name if name.endswith("/") else ""
            yield name
        else:
            yield directory + name


def test_the_tree_is_the_repository() -> None:
    listed = list(tree())
    assert len(listed) == len(set(listed))
    assert [name for name in listed if not (ROOT / name).exists()] == []
    modules = {path.relative_to(ROOT).as_posix() for part in PACKAGES for path in (ROOT / part).rglob("*.py")}
    modules |= {f"benchmarks/{path.name}" for path in (ROOT / "benchmarks").glob("*.py")}
    modules |= {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    assert modules - set(listed) == set()


@pytest.mark.parametrize(
    "document", ["README.md", "CHANGELOG.md", *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md"))]
)
def test_links_lead_to_files_and_headings(document: str) -> None:
    text, here = (ROOT / document).read_text(), (ROOT / document).parent
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        path, _, heading = target.partition("#")
        assert (here / path).is_file(), target
        headings = re.findall(r"^#+ (.+)$", (here / path).read_text(), re.MULTILINE) if heading else []
        anchors = {re.sub(r"[^\w -]", "", name.lower()).replace(" ", "-") for name in headings}  # as GitHub's
        assert not heading or heading in anchors, target


def test_the_pictures_are_small() -> None:
    for name in ("curves-article.png", "curves-learning.png", "simulation-report.png"):
        assert 10_000 < (ROOT / "docs" / name).stat().st_size < 200_000


def codes_in_protocol() -> set[str]:
    text = (ROOT / "docs/protocol.md").read_text()
    return {code for row in REFUSAL_ROW.findall(text) for code in re.findall(r"`(\w+)`", row)}


def codes_in_source() -> set[str]:
    """Words given as an error's code in the aggregator and in checking checkpoints; `*` is any word."""
    found = set()
    for path in [
        *ROOT.glob("aggregator/*.py"),
        *ROOT.glob("aggregator/api/*.py"),
        ROOT / "export/checkpoint.py",
    ]:
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.keyword(arg="code", value=value):
                    found |= words_of(value)
                case ast.Assign(targets=[ast.Name("code" | "HTTP_CODES")], value=value):
                    found |= words_of(value)
                case ast.Call(func=ast.Name("refusal"), args=[_, value, *_]):
                    found |= words_of(value)
    return found


def words_of(value: ast.expr) -> set[str]:
    match value:
        case ast.Constant(str(word)):
            return {word}
        case ast.IfExp(body=body, orelse=orelse):
            return words_of(body) | words_of(orelse)
        case ast.Dict(values=values):
            return {word for each in values for word in words_of(each)}
        case ast.JoinedStr(values=parts):
            return {"".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in parts)}
    return set()


def test_protocol_lists_the_refusals_that_the_server_gives() -> None:
    listed, given = codes_in_protocol(), codes_in_source() | {"store_failed"}  # StoreError's own code
    assert {word for word in given if not any(fnmatch(code, word) for code in listed)} == set()
    assert {code for code in listed if not any(fnmatch(code, word) for word in given)} == set()
    assert {"truncated", "wrong_names", "round_over", "unknown_model"} <= listed
