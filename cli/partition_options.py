"""Options that say how images are shared out among phones."""

import argparse

from fedfer.model.partition_settings import SCHEMES, PartitionSettings

HOW = {
    "contiguous": "runs",
    "iid": "at random",
    "dirichlet": "label mixes drawn from Dirichlet(alpha)",
    "shards": "a few shards of images sorted by label",
    "power": "at random, quantities by a power law",
    "column": "by a column of the CSV",
}


def add_partition_arguments(parser: argparse.ArgumentParser, schemes: tuple[str, ...] = SCHEMES) -> None:
    """`--partition` with these schemes, and what each of them takes."""
    add = parser.add_argument
    known = "; ".join(f"{scheme}: {HOW[scheme]}" for scheme in schemes)
    add(
        "--partition",
        choices=schemes,
        default=PartitionSettings.scheme,
        help=f"how images are shared out ({known})",
    )
    add("--alpha", type=float, default=PartitionSettings.alpha, help="evenness of dirichlet: small is skewed")
    if "shards" in schemes:
        default = PartitionSettings.shards_per_device
        add(
            "--shards-per-device",
            type=int,
            default=default,
            metavar="N",
            help="number of shards that each phone gets",
        )
    if "power" in schemes:
        add(
            "--exponent",
            type=float,
            default=PartitionSettings.exponent,
            help="number that shapes power: 0 is even, 1 Zipf's law",
        )
    if "column" in schemes:
        add("--column", metavar="NAME", help="column that says whose an image is: one value, one phone")


def partition_settings(args: argparse.Namespace) -> PartitionSettings:
    """What those options and `--examples-per-device` say. Raises UsageError."""
    return PartitionSettings(
        scheme=args.partition,
        alpha=args.alpha,
        shards_per_device=args.shards_per_device,
        exponent=args.exponent,
        column=args.column,
        examples_per_device=args.examples_per_device,
    )
