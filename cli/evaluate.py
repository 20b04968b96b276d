"""Measure an exported model on labelled images: loss, accuracy, recall per class, confusion matrix.

Runs the `infer` signature of the .tflite itself, with the weights inside the file or with a checkpoint's.

Example: fedfer evaluate model.tflite --weights final.safetensors --data drawn --take 700
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedfer.cli.data_options import SOURCE_HELP, USAGE_HELP
from fedfer.cli.table import decimal, format_table, percent

if TYPE_CHECKING:
    from fedfer.model.measures import Measures

HELP = "measure a .tflite on labelled images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL.tflite", help="a file made by `fedfer export`")
    add(
        "--weights",
        type=Path,
        metavar="CHECKPOINT.safetensors",
        help="weights; those in the file, if not given",
    )
    add("--data", required=True, metavar="SOURCE", help=SOURCE_HELP)
    add("--skip", type=int, default=0, metavar="N", help="images of the source to leave out first")
    add("--take", type=int, metavar="N", help="images to measure on, counted after --skip; all, if not given")
    add("--data-seed", type=int, default=0, metavar="N", help="seed of drawn faces")
    add("--usage", metavar="NAME", help=USAGE_HELP)
    add(
        "--runtime",
        choices=("auto", "tflite-runtime", "ai-edge-litert"),
        default="auto",
        help="what runs the .tflite; auto takes the first that is installed",
    )
    add("--json", action="store_true", help="print one JSON object instead of tables")


def run(args: argparse.Namespace) -> int:
    import json

    from fedfer.export.contract import read_contract
    from fedfer.export.evaluation import evaluate_apart
    from fedfer.model.sources import load_images

    labels = read_contract(args.model).labels
    data = load_images(args.data, skip=args.skip, take=args.take, seed=args.data_seed, usage=args.usage)
    measures = evaluate_apart(args.model, args.weights, data, runtime=args.runtime)
    if args.json:
        print(json.dumps(measures_as_json(measures, labels), indent=2, allow_nan=False))
    else:
        print(describe_measures(measures, labels))
    return 0


def measures_as_json(measures: "Measures", labels: tuple[str, ...]) -> dict[str, Any]:
    """What `--json` prints: `confusion[i][j]` images of class i were taken for class j."""
    return {
        "num_examples": measures.num_examples,
        "loss": measures.loss,
        "accuracy": measures.accuracy,
        "per_class_recall": dict(zip(labels, measures.per_class_recall, strict=True)),
        "labels": list(labels),
        "confusion": [list(row) for row in measures.confusion],
    }


def describe_measures(measures: "Measures", labels: tuple[str, ...]) -> str:
    """Several lines for a person: the two numbers, then recall and confusion by class."""
    rows = [
        [label, str(sum(counts)), percent(recall), *(str(count) if count else "." for count in counts)]
        for label, recall, counts in zip(labels, measures.per_class_recall, measures.confusion, strict=True)
    ]
    table = format_table(["is, taken for ->", "images", "recall", *labels], rows)
    return (
        f"{measures.num_examples} images: loss {decimal(measures.loss)}, "
        f"accuracy {measures.accuracy:.1%}\n\n{table}"
    )
