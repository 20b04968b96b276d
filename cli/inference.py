"""Make a small inference-only .tflite of a trained classifier, measured beside the float model it came from.

Example: fedfer inference --weights-from final.safetensors --precision int8 --data test.csv.gz
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fedfer.cli.data_options import SOURCE_HELP, USAGE_HELP
from fedfer.cli.export import add_model_arguments, model_and_labels, write_whole
from fedfer.cli.loss_options import add_loss_arguments, loss_settings
from fedfer.cli.table import decimal, format_table
from fedfer.model.errors import UsageError
from fedfer.model.settings import BATCH_NORM_MOMENTUM, DROPOUT

if TYPE_CHECKING:
    from fedfer.model.data import LabelledImages
    from fedfer.model.measures import Measures

HELP = "make a small .tflite that only infers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.set_defaults(dropout=DROPOUT, seed=0, batch_norm_momentum=BATCH_NORM_MOMENTUM)
    add = parser.add_argument
    add(
        "--weights-from",
        type=Path,
        action="append",
        required=True,
        metavar="CHECKPOINT.safetensors",
        help="trained weights, from a server or `fedfer train`; given twice (a body's, then a head's), the "
        "second's go first",
    )
    add("--precision", choices=("float32", "float16", "int8"), default="int8", help="of the numbers in it")
    add("--output", type=Path, default=Path("inference.tflite"), help="file to write")
    add("--data", required=True, metavar="SOURCE", help=SOURCE_HELP)
    add("--skip", type=int, default=0, metavar="N", help="examples of the source to leave out first")
    add("--take", type=int, metavar="N", help="examples to use, counted after --skip; all, if not given")
    add("--usage", metavar="NAME", help=USAGE_HELP)
    add(
        "--calibrate",
        type=int,
        default=100,
        metavar="N",
        help="the first N of the examples tell int8 its ranges; the others are measured on",
    )
    add_loss_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from fedfer.export.inference_run import evaluate_inference
    from fedfer.export.isolation import call_isolated
    from fedfer.export.quiet import quiet_tensorflow
    from fedfer.model.data import noun_of

    write_whole(args.output, None)
    calibration, data = load_data(args)
    with quiet_tensorflow():
        float_model = convert(args, "float32", calibration, data)
        content = float_model
        if args.precision != "float32":
            content = convert(args, args.precision, calibration, data)
    rows = []
    for name, file in {"float32": float_model, args.precision: content}.items():
        measures = call_isolated(evaluate_inference, file, data)
        rows.append(row_of(name, file, measures))
    print(f"measured on {len(data)} {noun_of(data)}")
    print(format_table(["precision", "bytes", "loss", "accuracy"], rows))
    write_whole(args.output, content)
    print(f"wrote {args.output}, {len(content):,} bytes")
    return 0


def load_data(args: argparse.Namespace) -> "tuple[LabelledImages, LabelledImages]":
    """Examples to calibrate on, and others to measure on. Raises FedferError."""
    from fedfer.model.data import noun_of
    from fedfer.model.sources import load_images

    data = load_images(args.data, skip=args.skip, take=args.take, usage=args.usage)
    if not 1 <= args.calibrate < len(data):
        raise UsageError(
            f"expected --calibrate of at least 1 and below the {len(data)} {noun_of(data)}; "
            f"received {args.calibrate}"
        )
    return data.take(slice(args.calibrate)), data.take(slice(args.calibrate, None))


def convert(
    args: argparse.Namespace, precision: str, calibration: "LabelledImages", data: "LabelledImages"
) -> bytes:
    """The file's bytes, of a model that fits the examples. Imports TensorFlow. Raises FedferError."""
    from fedfer.export.contract import TrainingSettings
    from fedfer.export.ending import refuse_logits
    from fedfer.export.inference import convert_for_inference
    from fedfer.export.inference_card import InferenceCard
    from fedfer.export.loss_settings import SQUARED
    from fedfer.export.pretrained import start_from
    from fedfer.export.tflite import make_contract
    from fedfer.export.tokens import check_tokens, vocabulary_size
    from fedfer.model.data import check_fit, to_float

    model, labels = model_and_labels(args)
    loss = loss_settings(args, model, labels)
    if loss.name == SQUARED:
        raise UsageError("`fedfer inference` is for classifiers, whose files it measures; export a regressor")
    contract = make_contract(model, labels, TrainingSettings(loss=loss))
    refuse_logits(model, loss)
    for part in (calibration, data):
        check_fit(part, contract.image_shape, len(labels))
        check_tokens(model, part)
    start_from(model, args.weights_from, contract)
    card = InferenceCard(
        contract.model_name,
        contract.image_shape,
        labels,
        precision,  # type: ignore[arg-type]
        contract.infer_output,
        contract.pixel_divisor,
        "float32" if vocabulary_size(model) is None else "int32",
    )
    representative = to_float(calibration.images, contract.pixel_divisor).astype(card.input_type)
    return convert_for_inference(model, card, loss, representative)


def row_of(precision: str, content: bytes, measures: "Measures") -> list[str]:
    return [precision, f"{len(content):,}", decimal(measures.loss), f"{measures.accuracy:.1%}"]
