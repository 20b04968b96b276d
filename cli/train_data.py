"""What `fedfer train` trains on and measures on, by its options, and how images are changed at random."""

import argparse
from typing import TYPE_CHECKING

from fedfer.cli.data_options import SOURCE_HELP, USAGE_HELP
from fedfer.model.settings import ROTATE_DEG, SHIFT

if TYPE_CHECKING:
    from fedfer.model.augmentation import Augmentation
    from fedfer.model.data import LabelledImages


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """What is trained on, what is measured on, and how images are changed (which other inputs are not)."""
    add = parser.add_argument
    add("--data", required=True, metavar="SOURCE", help=SOURCE_HELP)
    add("--skip", type=int, default=0, metavar="N", help="examples of the source to leave out first")
    add("--take", type=int, metavar="N", help="examples to use, counted after --skip; all, if not given")
    add("--usage", metavar="NAME", help=USAGE_HELP)
    add(
        "--validation-data",
        metavar="SOURCE",
        help="examples to measure each epoch on; if not given, a share of --data is kept apart",
    )
    add("--validation-usage", metavar="NAME", help="as --usage, of --validation-data")
    add("--validation-share", type=float, default=0.1, metavar="SHARE", help="how much of --data that is")
    add("--no-flip", action="store_true", help="do not mirror half of the images")
    add(
        "--shift",
        type=float,
        metavar="SHARE",
        help=f"shift images by up to this share of a side; {SHIFT:g}, if not given",
    )
    add(
        "--rotate",
        type=float,
        metavar="DEGREES",
        help=f"turn images by up to so much; {ROTATE_DEG:g}, if not given",
    )


def load_data(args: argparse.Namespace) -> "tuple[LabelledImages, LabelledImages]":
    """Training and validation examples. Raises UsageError, DataError."""
    from fedfer.model.sources import load_images
    from fedfer.model.splits import split_off

    data = load_images(args.data, skip=args.skip, take=args.take, usage=args.usage, seed=args.seed)
    if args.validation_data is None:
        return split_off(data, args.validation_share, args.seed)
    validation = load_images(args.validation_data, usage=args.validation_usage, seed=args.seed)
    return data, validation


def augmentation_of(
    args: argparse.Namespace, data: "LabelledImages", takes_tokens: bool
) -> "Augmentation | None":
    """None for what is no image. Raises UsageError where it was asked for all the same."""
    from fedfer.model.augmentation import Augmentation
    from fedfer.model.data import are_pixels
    from fedfer.model.errors import UsageError

    if are_pixels(data) and not takes_tokens:
        return Augmentation(
            not args.no_flip,
            SHIFT if args.shift is None else args.shift,
            ROTATE_DEG if args.rotate is None else args.rotate,
        )
    asked = [option for option in ("shift", "rotate") if getattr(args, option)]
    if asked:
        kind = "tokens" if takes_tokens else f"{data.images.dtype} {data.images.shape}"
        raise UsageError(
            f"--{asked[0]} changes images, uint8 (n, H, W, C), and the inputs are {kind}; leave it out"
        )
    return None


def digest_of_images(data: "LabelledImages") -> str:
    import hashlib

    return hashlib.sha256(data.images.tobytes() + data.labels.tobytes()).hexdigest()
