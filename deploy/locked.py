"""Prints the part of requirements.lock that some extras of fedfer need, with its hashes.

    python deploy/locked.py serve postgres s3 devices > requirements.txt
    python -m pip install --require-hashes --no-deps -r requirements.txt

Standard library only. The lock's `# via` comments say who needs a package: what is printed is all that is
reached from the extras, from fedfer's own dependencies and from packages named with `--package`. What is
reached only from a dependency with a marker gets that marker: pip skips it where fedfer does not ask for it.
"""

import argparse
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAME = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)")
FIRST_LINE = re.compile(r"^(\S+?==\S+)(?: *; *(.+?))?(?= *\\$)", re.MULTILINE)
BLOCK = re.compile(r"^(?=[A-Za-z0-9])", re.MULTILINE)
VIA = re.compile(r"^\s+#(?: via)?\s+([A-Za-z0-9._-]+)", re.MULTILINE)


@dataclass(frozen=True)
class Locked:
    """A package of the lock: its lines, and the names of the packages that need it."""

    text: str
    needed_by: frozenset[str]


def read_lock(text: str) -> dict[str, list[Locked]]:
    """The lock's packages by normalized name; a name may have several lines, for different Pythons."""
    found: dict[str, list[Locked]] = {}
    for block in BLOCK.split(text):
        match = NAME.match(block)
        if match:
            needed_by = frozenset(map(normalized, VIA.findall(block)))
            found.setdefault(normalized(match[1]), []).append(Locked(block, needed_by))
    return found


def closure(lock: dict[str, list[Locked]], roots: Iterable[str]) -> set[str]:
    """The roots and everything that they need, as the lock has it. Raises SystemExit for an unknown root."""
    wanted: set[str] = set()
    following = {normalized(root) for root in roots}
    unknown = sorted(following - set(lock))
    if unknown:
        raise SystemExit(f"not in requirements.lock: {', '.join(unknown)}")
    while following:
        wanted |= following
        following = {
            name for name, entries in lock.items() if any(entry.needed_by & wanted for entry in entries)
        } - wanted
    return wanted


def marked(lock: dict[str, list[Locked]], roots: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The closure of the roots, each package with the markers of the roots that reach it; with none if one of
    these has no marker."""
    always = closure(lock, [root for root, markers in roots.items() if "" in markers])
    wanted: dict[str, set[str]] = {name: set() for name in always}
    for root, markers in roots.items():
        for name in closure(lock, [root]) - always:
            wanted[name] = wanted.get(name, set()) | markers
    return wanted


def with_markers(text: str, markers: set[str]) -> str:
    """A package's lines of the lock, where one of these markers holds. Raises SystemExit for other text."""
    if not markers:
        return text
    first = FIRST_LINE.match(text)
    if first is None:
        raise SystemExit(f"requirements.lock: not understood: {text.partition(chr(10))[0]}")
    condition = " or ".join(f"({marker})" for marker in sorted(markers))
    if first[2]:
        condition = f"({first[2]}) and ({condition})"
    return f"{first[1]} ; {condition}{text[first.end() :]}"


def roots_of(project: dict[str, list[str]] | dict[str, object], extras: Iterable[str]) -> dict[str, set[str]]:
    """The names in fedfer's dependencies and in these extras, each with its markers ("" is none). Raises
    SystemExit for an unknown extra."""
    optional = project.get("optional-dependencies")
    assert isinstance(optional, dict)
    requirements = project.get("dependencies")
    assert isinstance(requirements, list)
    lines: list[str] = list(requirements)
    for extra in extras:
        if extra not in optional:
            raise SystemExit(f"fedfer has no extra {extra!r}; it has {', '.join(optional)}")
        lines += optional[extra]
    roots: dict[str, set[str]] = {}
    for line in lines:
        match = NAME.match(line)
        if match:
            roots.setdefault(normalized(match[1]), set()).add(line.partition(";")[2].strip())
    return roots


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("extras", nargs="*", metavar="EXTRA", help="extras of fedfer")
    parser.add_argument("--package", action="append", default=[], help="only this package and what it needs")
    args = parser.parse_args()
    lock = read_lock((ROOT / "requirements.lock").read_text())
    roots: dict[str, set[str]] = {}
    if args.extras or not args.package:
        roots = roots_of(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"], args.extras)
    roots |= {normalized(name): {""} for name in args.package}
    wanted = marked(lock, roots)
    for name in sorted(wanted):
        for entry in lock[name]:
            print(with_markers(entry.text, wanted[name]), end="")


if __name__ == "__main__":
    main()
