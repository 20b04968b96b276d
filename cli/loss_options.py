"""What a training minimises, by options of `fedfer export` before what the model was compiled with."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedfer.export.loss_settings import LOSSES, LossSettings

if TYPE_CHECKING:
    import keras

BALANCED = "balanced:"


def add_loss_arguments(parser: argparse.ArgumentParser) -> None:
    """--loss, --from-logits, --label-smoothing, --class-weights."""
    add = parser.add_argument
    add(
        "--loss",
        choices=LOSSES,
        metavar="NAME",
        help=f"{', '.join(LOSSES)}; if not given, that of a compiled MODEL, else the first",
    )
    add("--from-logits", action="store_true", help="MODEL ends without softmax or sigmoid; `infer` adds it")
    add("--label-smoothing", type=float, metavar="SHARE", help="of the targets spread over all classes")
    add(
        "--class-weights",
        metavar=f"FILE|{BALANCED}IMAGES",
        help="how much each class's examples count: a JSON file, a list or an object by the class's name, or "
        f"{BALANCED}IMAGES.csv, so that each of the classes in a CSV counts the same altogether",
    )


def loss_settings(
    args: argparse.Namespace, model: "keras.Model", labels: Sequence[str] | None = None
) -> LossSettings:
    """Without `labels` nothing is said of class weights. Raises UsageError, DataError, ExportError."""
    from fedfer.export.losses import loss_of

    settings = LossSettings(args.loss) if args.loss else loss_of(model) or LossSettings()
    smoothing = settings.label_smoothing if args.label_smoothing is None else args.label_smoothing
    settings = dataclasses.replace(
        settings, from_logits=settings.from_logits or args.from_logits, label_smoothing=smoothing
    )
    if labels is None or args.class_weights is None:
        return settings
    return dataclasses.replace(settings, class_weights=_class_weights(args.class_weights, labels))


def _class_weights(source: str, labels: Sequence[str]) -> tuple[float, ...]:
    from fedfer.export.targets import balanced_class_weights, read_class_weights

    if not source.startswith(BALANCED):
        return read_class_weights(Path(source), labels)
    from fedfer.model.sources import load_images

    return balanced_class_weights(load_images(source.removeprefix(BALANCED)).labels, len(labels))
