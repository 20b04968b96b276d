"""Show the versions of a run; compare, tag, export, average them, or roll the run back to one.

A version is named by a tag, its sha256, or the number of the round that it came of.
Example: fedfer versions export default best --output best.safetensors
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedfer.cli import operator_api
from fedfer.cli.operator_api import Api, measure, objects, printable, quoted, short
from fedfer.cli.table import format_table
from fedfer.model.errors import UsageError

if TYPE_CHECKING:
    from fedfer.export.checkpoint import Weights
    from fedfer.export.contract import Contract

HELP = "show, compare, tag, export, average the versions of a run; roll back to one"
# What follows the run, by action.
ARGUMENTS = {
    "list": (),
    "compare": ("VERSION", "VERSION"),
    "tag": ("VERSION", "TAG"),
    "untag": ("TAG",),
    "rollback": ("VERSION",),
    "export": ("VERSION",),
    "average": ("COUNT",),
}
WRITING = ("export", "average")
MAX_AVERAGED = 1000
HEADER = ("round", "weights", "parent", "updates", "held out: loss", "accuracy", "committed at", "tags")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("action", choices=ARGUMENTS, help="what to do; rollback makes the next round start from a version")
    add("run_name", metavar="RUN", help="name of the run")
    add("names", nargs="*", metavar="NAME", help="versions and tags: " + _usage())
    add("--output", type=Path, metavar="FILE", help="where export and average write weights (.safetensors)")
    add("--model-output", type=Path, metavar="FILE", help="where they write the run's .tflite, if given")
    operator_api.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Raises FedferError."""
    expected = ARGUMENTS[args.action]
    if len(args.names) != len(expected):
        raise UsageError(f"expected `fedfer versions {' '.join((args.action, 'RUN', *expected))}`")
    if (args.action in WRITING) != (args.output is not None):
        raise UsageError(f"--output FILE goes with {' and '.join(WRITING)}, which need it")
    with operator_api.connected(args) as api:
        path = f"/v1/runs/{quoted(args.run_name)}"
        body, text = _act(api, path, args)
    print(json.dumps(body, indent=2) if args.json else text)
    return 0


def _act(api: Api, path: str, args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """What the server says, and the same for people."""
    names = [quoted(name) for name in args.names]
    body: dict[str, Any]
    match args.action:
        case "list":
            body = api.get(f"{path}/versions")
            return body, _table(objects(body, "versions"))
        case "compare":
            body = api.get(f"{path}/versions/compare?a={names[0]}&b={names[1]}")
            return body, _comparison(body)
        case "tag":
            body = api.post(f"{path}/tags", {"tag": names[1], "version": names[0]})
            return body, f"{names[1]} is {printable(body.get('weights'))}"
        case "untag":
            return api.delete(f"{path}/tags/{names[0]}"), f"{names[0]} is no tag any more"
        case "rollback":
            body = api.post(f"{path}/rollback", {"to": names[0]})
            return body, f"round {printable(body.get('round'))} starts from {names[0]}"
        case "average":
            return _average(api, path, names[0], args)
    return _export(api, path, names[0], args)


def _export(api: Api, path: str, name: str, args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Downloads a version, and the model if wanted; nothing is written but whole files."""
    version = find(objects(api.get(f"{path}/versions"), "versions"), name)
    weights = quoted(str(version.get("weights")))
    size = api.download(f"/v1/weights/{weights}", args.output, weights)
    lines = [f"wrote {args.output}: {size} bytes, sha256 {weights}"]
    if args.model_output is not None:
        lines.append(_download_model(api, api.get(path), args.model_output))
    return version, "\n".join(lines)


def _download_model(api: Api, run: dict[str, Any], place: Path) -> str:
    """What is said of it."""
    model = quoted(str(run.get("model")))
    size = api.download(f"/v1/models/{model}", place, model)
    return f"wrote {place}: {size} bytes, sha256 {model}"


def _average(api: Api, path: str, count: str, args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Writes the mean of the last so many versions of the line that training goes on from."""
    from fedfer.cli.export import write_whole
    from fedfer.cli.mean_version import line_of, mean_of
    from fedfer.export.checkpoint import checkpoint_bytes, digest_of
    from fedfer.export.contract import read_contract

    is_number = count.isascii() and count.isdecimal() and len(count) <= len(str(MAX_AVERAGED))
    if not (is_number and 2 <= int(count) <= MAX_AVERAGED):
        raise UsageError(f"COUNT is {count}; expected how many versions to average, 2 to {MAX_AVERAGED}")
    run = api.get(path)
    line = line_of(objects(api.get(f"{path}/versions"), "versions"), run.get("weights"), int(count))
    last = [version for version in line if version.get("is_kept") is not False]
    if len(last) < int(count):
        raise UsageError(
            f"the server has {len(last)} of the last {count} versions that training made; "
            "expected a smaller COUNT"
        )
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "model.tflite"
        said = _download_model(api, run, args.model_output or place)
        contract = read_contract(args.model_output or place)
        content = checkpoint_bytes(
            mean_of(_downloaded(api, last, place.with_name("version"), contract)), contract
        )
    write_whole(args.output, content)
    numbers = [version.get("round") for version in last]
    body = {"rounds": numbers, "weights": digest_of(content)}
    shown = ", ".join(map(printable, numbers))
    lines = [f"wrote {args.output}: the mean of the versions of rounds {shown}, sha256 {digest_of(content)}"]
    return body, "\n".join([*lines, *([said] if args.model_output else [])])


def _downloaded(
    api: Api, versions: list[Mapping[str, Any]], place: Path, contract: "Contract"
) -> "Iterator[Weights]":
    """One after the other, each in the same file."""
    from fedfer.export.checkpoint import load_checkpoint

    for version in versions:
        weights = quoted(str(version.get("weights")))
        api.download(f"/v1/weights/{weights}", place, weights)
        yield load_checkpoint(place, contract)


def find(versions: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The newest version that is kept and has this tag, sha256 or round. Raises UsageError."""
    version: dict[str, Any]
    for version in reversed(versions):
        tags = version.get("tags")
        names: list[object] = [version.get("weights"), str(version.get("round"))]
        names += tags if isinstance(tags, list) else []
        if name in names and version.get("is_kept") is not False:
            return version
    raise UsageError(f"no version {name}; expected a tag, a sha256 or a round of `fedfer versions list`")


def _table(versions: list[dict[str, Any]]) -> str:
    return format_table(HEADER, [_row(version) for version in versions], num_left=3)


def _row(version: dict[str, Any]) -> tuple[str, ...]:
    tags, updates = version.get("tags"), version.get("updates")
    words = [printable(tag) for tag in tags] if isinstance(tags, list) else []
    if version.get("is_kept") is False:
        words.append("(deleted)")
    return (
        printable(version.get("round")),
        short(version.get("weights")),
        short(version.get("parent_weights")),
        str(len(updates)) if isinstance(updates, list) else "-",  # a server of before says nothing of them
        measure(version.get("holdout_loss"), 4),
        measure(version.get("holdout_accuracy")),
        printable(version.get("committed_at")),
        " ".join(words) or "-",
    )


def _comparison(body: dict[str, Any]) -> str:
    pair = [version for version in (body.get("a"), body.get("b")) if isinstance(version, dict)]
    lines = [
        _table(pair),
        "",
        f"distance of the weights     {measure(body.get('weights_distance'), 6)}",
        f"distance of the statistics  {measure(body.get('statistics_distance'), 6)}",
        f"held out: loss changes by   {measure(body.get('holdout_loss_change'), 4)}",
        f"accuracy changes by         {measure(body.get('holdout_accuracy_change'))}",
    ]
    return "\n".join(lines)


def _usage() -> str:
    return "; ".join(f"{action} {' '.join(names)}" for action, names in ARGUMENTS.items() if names)
