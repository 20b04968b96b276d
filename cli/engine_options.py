"""Options about what trains: the served file, or the Keras model that it was exported from."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedfer.export.engines import EngineChoice


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """--runtime, --engine and --keras-model."""
    parser.add_argument(
        "--runtime",
        choices=("auto", "tflite-runtime", "ai-edge-litert"),
        default="auto",
        help="what runs the .tflite; auto takes the first that is installed",
    )
    parser.add_argument(
        "--engine",
        choices=("tflite", "keras"),
        default="tflite",
        help="what trains: the served file itself, or the same mathematics in TensorFlow, checked against it",
    )
    parser.add_argument(
        "--keras-model",
        metavar="SOURCE",
        help="for --engine keras: what was exported, as a .keras file or package.module:function",
    )


def engine_choice(args: argparse.Namespace) -> "EngineChoice":
    """Raises UsageError for options that do not fit each other."""
    from fedfer.export.engines import EngineChoice

    return EngineChoice(args.engine, args.runtime, args.keras_model)
