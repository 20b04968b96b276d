"""Export a Keras image classifier to a .tflite that trains on phones, checked before it is written."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fedfer.model.settings import BATCH_NORM_MOMENTUM, DROPOUT

if TYPE_CHECKING:
    import keras

HELP = "make the mobile model"
VGG = "vgg"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        nargs="?",
        default=VGG,
        metavar="MODEL",
        help="a .keras file, or package.module:function returning a Keras model; `vgg` is the network for "
        "facial expressions, which --dropout, --batch-norm-momentum and --seed are for",
    )
    parser.add_argument(
        "--labels", metavar="A,B,...", help="names of MODEL's classes; if not given, their numbers"
    )
    parser.add_argument("--output", type=Path, default=Path("model.tflite"), help="file to write")
    parser.add_argument(
        "--dropout", type=float, default=DROPOUT, help="share of activations dropped, 0 to <1"
    )
    parser.add_argument(
        "--batch-norm-momentum",
        type=float,
        default=BATCH_NORM_MOMENTUM,
        help="share of BatchNorm's moving statistics that a training step keeps, 0 to <1 (Keras: 0.99)",
    )
    parser.add_argument(
        "--learning-rate", type=float, default=0.02, help="SGD step size that the file suggests"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the initial weights")


def run(args: argparse.Namespace) -> int:
    from fedfer.cli.quiet import quiet_tensorflow
    from fedfer.model.errors import UsageError

    if not 0 < args.learning_rate < float("inf"):
        raise UsageError(f"expected a learning rate above 0; received {args.learning_rate}")
    write_whole(args.output, None)
    with quiet_tensorflow():
        from fedfer.export.contract import TrainingSettings, read_contract
        from fedfer.export.tflite import convert
        from fedfer.export.verify import require, verify

        model, labels = _model_and_labels(args)
        print(f"converting {model.name}, {model.count_params():,} parameters", flush=True)
        content = convert(model, labels, TrainingSettings(learning_rate=args.learning_rate))
        print("checking the file in a process of its own", flush=True)
        findings = verify(content, model, read_contract(content))
    for finding in findings:
        print(f"  {'ok  ' if finding.passed else 'FAIL'} {finding.text}")
    require(findings)
    write_whole(args.output, content)
    print(f"wrote {args.output}, {len(content):,} bytes")
    return 0


def _model_and_labels(args: argparse.Namespace) -> "tuple[keras.Model, tuple[str, ...]]":
    """What to export. Raises UsageError."""
    from fedfer.model.errors import UsageError

    if args.model == VGG:
        from fedfer.model.labels import LABELS
        from fedfer.model.vgg import build_vgg

        if args.labels is not None:
            raise UsageError("the network for facial expressions has its labels; --labels is for a MODEL")
        return build_vgg(args.dropout, args.seed, args.batch_norm_momentum), LABELS
    from fedfer.export.keras_source import load_keras_model

    model = load_keras_model(args.model)
    if args.labels is not None:
        return model, tuple(args.labels.split(","))
    shape = model.output_shape
    classes = shape[-1] if isinstance(shape, tuple) and isinstance(shape[-1], int) else 0
    return model, tuple(str(number) for number in range(classes))


def write_whole(path: Path, content: bytes | None) -> None:
    """Writes the file under another name and renames it: nobody sees half of it. Without content it only
    finds out whether that is possible, before time is spent on it. Raises UsageError."""
    from contextlib import suppress

    from fedfer.model.errors import UsageError

    if not path.name or path.is_dir():
        reason = "Is a directory" if path.name else "it names no file"
        raise UsageError(f"cannot write {path}: {reason}; choose another --output")
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
        raise UsageError(f"cannot write {path}: {error.strerror}; choose another --output") from None
