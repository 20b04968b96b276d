"""Train a Keras classifier in one place, on data that you have, before any phone: the weights of round 0.

Writes the best epoch's weights as a checkpoint, for `fedfer serve --weights` or `fedfer export --start-from`,
beside it the curves as JSON and PNG and the state to go on from: the same command again resumes a training
that was stopped or killed, or prolongs it when --epochs is larger.

`--class-weights balanced` weighs the classes by the training images themselves.

Example: fedfer train --data train.csv.gz --epochs 40 --class-weights balanced --output start.safetensors
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from fedfer.cli.export import add_model_arguments, model_and_labels, write_whole
from fedfer.cli.loss_options import add_loss_arguments, loss_settings
from fedfer.cli.train_data import add_data_arguments, augmentation_of, digest_of_images, load_data
from fedfer.export.optimizer_settings import OPTIMIZERS
from fedfer.model.errors import UsageError
from fedfer.model.settings import BATCH_NORM_MOMENTUM, DROPOUT

if TYPE_CHECKING:
    import keras

    from fedfer.export.contract import Contract
    from fedfer.export.loss_settings import LossSettings
    from fedfer.export.pretraining import PretrainingPlan, Progress
    from fedfer.model.data import LabelledImages

HELP = "train in one place, for the weights to start from"
BALANCED = "balanced"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    add = parser.add_argument
    add(
        "--output",
        type=Path,
        default=Path("start.safetensors"),
        metavar="CHECKPOINT.safetensors",
        help="checkpoint to write; .json, .png and .state go beside it",
    )
    add(
        "--for",
        dest="model_file",
        type=Path,
        metavar="MODEL.tflite",
        help="the exported file that `fedfer serve --weights` will start with this checkpoint; if not given, "
        "what `fedfer export MODEL` writes without further options",
    )
    add("--seed", type=int, default=0, metavar="N", help="seed of weights, order and augmentation")
    add("--dropout", type=float, default=DROPOUT, help="share of activations dropped, 0 to <1")
    add("--batch-norm-momentum", type=float, default=BATCH_NORM_MOMENTUM, help="as for `fedfer export`")
    add_data_arguments(parser)
    add_training_arguments(parser)
    add_loss_arguments(parser)


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """How long, and in which steps."""
    add = parser.add_argument
    add("--epochs", type=int, default=30, metavar="N", help="passes over the examples, at most")
    add(
        "--patience",
        type=int,
        default=6,
        metavar="N",
        help="epochs without a better one to stop after; 0: none",
    )
    add("--batch-size", type=int, default=64, metavar="N", help="examples in a step")
    add("--optimizer", choices=tuple(OPTIMIZERS), default="adam", help="what takes the steps")
    add("--learning-rate", type=float, metavar="RATE", help="if not given, by the optimizer")


def run(args: argparse.Namespace) -> int:
    from fedfer.export.checkpoint import checkpoint_bytes
    from fedfer.export.quiet import quiet_tensorflow

    if args.output.suffix != ".safetensors":
        raise UsageError(f"{args.output} is no name for a checkpoint; choose an --output in .safetensors")
    write_whole(args.output.with_suffix(".json"), None)
    train, validation = load_data(args)
    with quiet_tensorflow():
        from fedfer.export.pretraining import Pretraining
        from fedfer.export.trainable import travelling_weights

        model, contract, plan = set_up(args, train, validation)
        about = {"contract": contract.digest, "data": digest_of_images(train)}
        training = Pretraining(model, plan, args.output.with_suffix(".state"), about)
        print(describe_start(model, train, validation, len(training.history)), flush=True)

        def save_best() -> None:
            weights = dict(zip((w.name for w in contract.weights), travelling_weights(model), strict=True))
            write_whole(args.output, checkpoint_bytes(weights, contract))

        progress = training.run(train, validation, save_best, report_epoch, live_line)
    write_curves(args.output, progress, plan, model.name)
    best = progress.history[progress.best - 1]
    print(
        f"wrote {args.output}, epoch {best.number} of {len(progress.history)}: "
        f"validation loss {best.validation_loss:.3f}, accuracy {best.validation_accuracy:.1%}"
    )
    return 0


def set_up(
    args: argparse.Namespace, train: "LabelledImages", validation: "LabelledImages"
) -> "tuple[keras.Model, Contract, PretrainingPlan]":
    """The model to train, the contract of its checkpoint, the plan. Raises FedferError."""
    from fedfer.export.contract import TrainingSettings, read_contract
    from fedfer.export.ending import refuse_logits
    from fedfer.export.loss_settings import SQUARED
    from fedfer.export.pretraining import PretrainingPlan
    from fedfer.export.tflite import make_contract
    from fedfer.export.tokens import check_tokens, vocabulary_size
    from fedfer.model.data import check_fit

    model, labels = model_and_labels(args)
    loss = loss_settings(args, model)
    if loss.name == SQUARED:
        raise UsageError("`fedfer train` is for classifiers; train a regressor in Keras, then export it")
    contract = make_contract(model, labels, TrainingSettings(loss=loss))
    refuse_logits(model, loss)
    for part in (train, validation):
        check_fit(part, contract.image_shape, len(labels))
        check_tokens(model, part)
    if args.model_file is not None:
        contract = same_weights(read_contract(args.model_file), contract, args.model_file)
    optimizer = OPTIMIZERS[args.optimizer]
    plan = PretrainingPlan(
        epochs=args.epochs,
        batch_size=args.batch_size,
        learning_rate=optimizer.learning_rate if args.learning_rate is None else args.learning_rate,
        optimizer=optimizer,
        loss=loss_of_options(args, model, labels, train),
        augmentation=augmentation_of(args, train, vocabulary_size(model) is not None),
        patience=args.patience,
        seed=args.seed,
        pixel_divisor=contract.pixel_divisor,
    )
    return model, contract, plan


def same_weights(wanted: "Contract", own: "Contract", path: Path) -> "Contract":
    """`wanted`, if its checkpoints hold what the model has. Raises UsageError."""
    if wanted.num_frozen:
        raise UsageError(
            f"{path} has frozen layers, which a checkpoint does not reach: train without --for, then export "
            "with --start-from and --trainable"
        )
    if [(w.name, w.shape) for w in wanted.weights] != [(w.name, w.shape) for w in own.weights]:
        raise UsageError(f"{path} has other weights than {own.model_name}; give the MODEL that it is made of")
    return wanted


def loss_of_options(
    args: argparse.Namespace, model: "keras.Model", labels: tuple[str, ...], train: "LabelledImages"
) -> "LossSettings":
    """With class weights; `balanced` weighs by the training images. Raises FedferError."""
    from dataclasses import replace

    from fedfer.export.targets import balanced_class_weights

    if args.class_weights != BALANCED:
        return loss_settings(args, model, labels)
    return replace(
        loss_settings(args, model), class_weights=balanced_class_weights(train.labels, len(labels))
    )


def describe_start(
    model: "keras.Model", train: "LabelledImages", validation: "LabelledImages", done: int
) -> str:
    from fedfer.model.data import noun_of

    text = f"{model.name}, {model.count_params():,} parameters: {len(train)} {noun_of(train)}"
    return f"{text}, {len(validation)} to measure on" + (f"; going on after epoch {done}" if done else "")


def live_line(done: int, batches: int) -> None:
    """On a terminal, where the epoch is."""
    if sys.stdout.isatty():
        print(f"\r\x1b[Kbatch {done} of {batches}", end="", flush=True)


def report_epoch(progress: "Progress") -> None:
    """A line that stays."""
    epoch = progress.history[-1]
    best = "best" if epoch.number == progress.best else f"best is {progress.best}"
    left = f", {duration(progress.left_sec)} to go" if progress.left_sec else ""
    print(
        f"{chr(13) + chr(27) + '[K' if sys.stdout.isatty() else ''}epoch {epoch.number}: "
        f"loss {epoch.loss:.3f} accuracy {epoch.accuracy:.1%}, validation "
        f"{epoch.validation_loss:.3f} {epoch.validation_accuracy:.1%} ({best}), "
        f"{epoch.duration_sec:.1f} s{left}",
        flush=True,
    )


def duration(seconds: float) -> str:
    """2h05, 7m30 or 42 s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}" if hours else f"{minutes}m{rest:02}" if minutes else f"{rest} s"


def write_curves(output: Path, progress: "Progress", plan: "PretrainingPlan", name: str) -> None:
    """The JSON, and the PNG where matplotlib is installed."""
    from importlib.util import find_spec

    history = [asdict(epoch) for epoch in progress.history]
    body = {"model": name, "best": progress.best, "plan": asdict(plan), "history": history}
    write_whole(output.with_suffix(".json"), json.dumps(body, indent=2, allow_nan=False).encode() + b"\n")
    if find_spec("matplotlib") is not None:
        from fedfer.cli.training_plots import draw_training

        draw_training(output.with_suffix(".png"), history, progress.best, f"{name}, trained in one place")
