"""Prints the part of requirements.lock that some extras of fedfer need, with its hashes.

    python deploy/locked.py serve postgres s3 devices > requirements.txt
    python -m pip install --require-hashes --no-deps -r requirements.txt

Standard library only. The lock's `# via` comments say who needs a package: what is printed is all that is
reached from the extras, from fedfer's own dependencies and from packages named with `--package`.
"""

import argparse
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAME = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)")
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


def roots_of(project: dict[str, list[str]] | dict[str, object], extras: Iterable[str]) -> set[str]:
    """The names in fedfer's dependencies and in these extras. Raises SystemExit for an unknown extra."""
    optional = project.get("optional-dependencies")
    assert isinstance(optional, dict)
    requirements = project.get("dependencies")
    assert isinstance(requirements, list)
    lines: list[str] = list(requirements)
    for extra in extras:
        if extra not in optional:
            raise SystemExit(f"fedfer has no extra {extra!r}; it has {', '.join(optional)}")
        lines += optional[extra]
    return {match[1] for match in map(NAME.match, lines) if match}


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
    roots = set(args.package)
    if args.extras or not roots:
        roots |= roots_of(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"], args.extras)
    wanted = closure(lock, roots)
    for name in sorted(wanted):
        for entry in lock[name]:
            print(entry.text, end="")


if __name__ == "__main__":
    main()
