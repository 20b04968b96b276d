"""Export a Keras model to a .tflite that trains on phones, checked before it is written."""

import argparse
import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING

from fedfer.cli.loss_options import add_loss_arguments, loss_settings
from fedfer.export.optimizer_settings import MOMENTUM, OPTIMIZERS, OptimizerSettings, optimizer_faults
from fedfer.model.settings import BATCH_NORM_MOMENTUM, DROPOUT

if TYPE_CHECKING:
    import keras

    from fedfer.export.contract import TrainingSettings

HELP = "make the mobile model"
VGG = "vgg"


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL and --labels."""
    parser.add_argument(
        "model",
        nargs="?",
        default=VGG,
        metavar="MODEL",
        help="a .keras file, or package.module:function returning a Keras model (the README lists the layers "
        "that can be exported, others are refused by name); `vgg` is the network for facial expressions, "
        "which options of dropout, momentum and seed are for",
    )
    parser.add_argument(
        "--labels", metavar="A,B,...", help="names of MODEL's classes; if not given, their numbers"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    add = parser.add_argument
    add("--output", type=Path, default=Path("model.tflite"), help="file to write")
    add("--dropout", type=float, default=DROPOUT, help="share of activations dropped, 0 to <1")
    add(
        "--batch-norm-momentum",
        type=float,
        default=BATCH_NORM_MOMENTUM,
        help="share of BatchNorm's moving statistics that a training step keeps, 0 to <1 (Keras: 0.99)",
    )
    add(
        "--save-keras",
        type=Path,
        metavar="FILE.keras",
        help="write the Keras model too, for `--engine keras` of devices and simulate",
    )
    add_weight_arguments(parser)
    add_training_arguments(parser)
    add_loss_arguments(parser)
    add("--seed", type=int, default=0, help="seed of the initial weights")


def add_weight_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the weights come from, which of them train, and how they are stored."""
    add = parser.add_argument
    add(
        "--start-from",
        type=Path,
        action="append",
        metavar="CHECKPOINT.safetensors",
        help="weights to start from, by `fedfer train` or a server; given twice, the second's go first",
    )
    add(
        "--trainable",
        default="all",
        metavar="LAYERS",
        help="layers that train: all, head (those after the last convolution, recurrent layer or "
        "flattening), or patterns of names such as `conv8,dense*`, or `base*` for all of a model inside "
        "MODEL; the others become constants, neither uploaded nor averaged",
    )
    add(
        "--weights",
        choices=("float32", "float16"),
        default="float32",
        help="how the file stores its initial weights; it trains in float32 either way",
    )


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """How the file trains."""
    add = parser.add_argument
    add(
        "--optimizer",
        choices=tuple(OPTIMIZERS),
        help="what takes the steps; if not given, that of a compiled MODEL, else sgd",
    )
    add(
        "--learning-rate", type=float, help="step size that the file suggests; if not given, by the optimizer"
    )
    add("--momentum", type=float, metavar="SHARE", help=f"of sgd; {MOMENTUM} for momentum and nesterov")
    add("--weight-decay", type=float, metavar="SHARE", help="times the learning rate, taken off in each step")
    add("--epsilon", type=float, metavar="NUMBER", help="of adam and adamw; Keras's 1e-07, if not given")
    add("--clip-norm", type=float, metavar="NORM", help="bound on the norm of all gradients as one vector")
    add(
        "--proximal",
        action="store_true",
        help="FedProx: gives `train` an input proximal_mu, set by the server",
    )


def run(args: argparse.Namespace) -> int:
    from fedfer.export.quiet import quiet_tensorflow, without_garbage_collection

    # What the file is held against must be right: oneDNN is not for some strides (docs/log.md).
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    check_training_arguments(args)
    write_whole(args.output, None)
    if args.save_keras is not None:
        check_keras_path(args.save_keras)
    with quiet_tensorflow(), without_garbage_collection():
        from fedfer.export.contract import read_contract
        from fedfer.export.tflite import convert
        from fedfer.export.verify import require, verify

        model, labels = model_and_labels(args)
        settings = _training_settings(args, model, labels)
        _set_up_weights(model, labels, settings, args)
        print(f"converting {model.name}, {model.count_params():,} parameters{_frozen(model)}", flush=True)
        rate = f"learning rate {settings.learning_rate:g}"
        print(f"training: {settings.loss.name}, {settings.optimizer}, {rate}", flush=True)
        content = convert(model, labels, settings, half_precision=args.weights == "float16")
        print("checking the file in a process of its own", flush=True)
        findings = verify(content, model, read_contract(content))
    for finding in findings:
        print(f"  {'ok  ' if finding.passed else 'FAIL'} {finding.text}")
    require(findings)
    write_whole(args.output, content)
    if args.save_keras is not None:
        save_keras(model, args.save_keras)
    print(f"wrote {args.output}, {len(content):,} bytes")
    return 0


def _set_up_weights(
    model: "keras.Model", labels: tuple[str, ...], settings: "TrainingSettings", args: argparse.Namespace
) -> None:
    """Initial weights as wanted, and which of them train. Raises FedferError."""
    from fedfer.export.pretrained import start_from
    from fedfer.export.tflite import make_contract, round_to_float16
    from fedfer.export.trainable import choose_trainable

    if args.start_from:
        start_from(model, args.start_from, make_contract(model, labels, settings))
    if args.weights == "float16":
        round_to_float16(model)
    choose_trainable(model, args.trainable)


def _frozen(model: "keras.Model") -> str:
    from fedfer.export.trainable import frozen_values

    frozen = sum(value.size for value in frozen_values(model).values())
    return f", of which {frozen:,} are frozen" if frozen else ""


def check_training_arguments(args: argparse.Namespace) -> None:
    """What can be said before TensorFlow is loaded. Raises UsageError."""
    from fedfer.model.errors import UsageError

    if args.learning_rate is not None and not 0 < args.learning_rate < float("inf"):
        raise UsageError(f"expected a learning rate above 0; received {args.learning_rate}")
    chosen = OPTIMIZERS[args.optimizer or "sgd"]
    if args.optimizer is not None or args.model == VGG:  # else it may be compiled with another
        _check_epsilon(chosen, args)
    for fault in optimizer_faults(_changed(chosen, args)):
        raise UsageError(f"these settings cannot be: {fault}")


def _check_epsilon(settings: OptimizerSettings, args: argparse.Namespace) -> None:
    from fedfer.model.errors import UsageError

    if args.epsilon is not None and settings.name == "sgd":
        raise UsageError("these settings cannot be: --epsilon is for adam and adamw, not for sgd")


def _changed(settings: OptimizerSettings, args: argparse.Namespace) -> OptimizerSettings:
    """The settings with what was given by options."""
    names = ("momentum", "weight_decay", "epsilon", "clip_norm")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return dataclasses.replace(settings, **given)


def _training_settings(
    args: argparse.Namespace, model: "keras.Model", labels: tuple[str, ...]
) -> "TrainingSettings":
    """Options before what the model was compiled with before defaults. Raises FedferError."""
    from fedfer.export.contract import TrainingSettings
    from fedfer.export.keras_training import settings_of

    settings, rate = OPTIMIZERS[args.optimizer or "sgd"], None
    if args.optimizer is None and getattr(model, "optimizer", None) is not None:
        settings, rate = settings_of(model.optimizer)
    _check_epsilon(settings, args)
    rate = args.learning_rate or rate or settings.learning_rate
    loss = loss_settings(args, model, labels)
    return TrainingSettings(_changed(settings, args), loss, learning_rate=rate, proximal=args.proximal)


def model_and_labels(args: argparse.Namespace) -> "tuple[keras.Model, tuple[str, ...]]":
    """What to export. Raises UsageError."""
    from fedfer.model.errors import UsageError

    if args.model == VGG:
        from fedfer.model.labels import LABELS
        from fedfer.model.vgg import build_vgg

        if args.labels is not None:
            raise UsageError("the network for facial expressions has its labels; --labels is for a MODEL")
        return build_vgg(args.dropout, args.seed, args.batch_norm_momentum), LABELS
    from fedfer.export.keras_source import load_keras_model
    from fedfer.export.refusal import refuse

    model = load_keras_model(args.model)
    refuse(model)
    if args.labels is not None:
        return model, tuple(args.labels.split(","))
    shape = model.output_shape
    outputs = shape[-1] if isinstance(shape, tuple) and isinstance(shape[-1], int) else 0
    loss = loss_settings(args, model)
    return model, tuple(str(number) for number in range(loss.num_classes_of.get(outputs, outputs)))


def check_keras_path(path: Path) -> None:
    """Raises UsageError for where no Keras model can be written, before time is spent on one."""
    from fedfer.model.errors import UsageError

    if path.suffix != ".keras":
        raise UsageError(f"--save-keras {path}: expected a name that ends in .keras, as Keras has it")
    write_whole(path, None, "--save-keras")


def save_keras(model: "keras.Model", path: Path) -> None:
    """Writes the whole `.keras` file, or nothing. Raises UsageError."""
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        written = Path(directory) / path.name
        model.save(written)
        write_whole(path, written.read_bytes(), "--save-keras")


def write_whole(path: Path, content: bytes | None, option: str = "--output") -> None:
    """Writes the file under another name and renames it: nobody sees half of it. Without content it only
    finds out whether that is possible, before time is spent on it. Raises UsageError."""
    from contextlib import suppress

    from fedfer.model.errors import UsageError

    if not path.name or path.is_dir():
        reason = "Is a directory" if path.name else "it names no file"
        raise UsageError(f"cannot write {path}: {reason}; choose another {option}")
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content or b"")
        if content is None:
            part.unlink()
        else:
            part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise UsageError(f"cannot write {path}: {error.strerror}; choose another {option}") from None
