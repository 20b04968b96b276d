"""Make keys: the one that devices enrol with, and the one for admin calls.

Example: fedfer keys new enrol.key && fedfer serve model.tflite --data-dir data --enrol-key-file enrol.key
"""

import argparse
from pathlib import Path

from fedfer.cli.key_files import write_new_key

HELP = "make keys for enrolment and for admin calls"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("new",), help="what to do: new makes a key")
    parser.add_argument("file", type=Path, nargs="+", metavar="FILE", help="file to make, with a key in it")


def run(args: argparse.Namespace) -> int:
    """Raises UsageError if a file cannot be made."""
    for path in args.file:
        write_new_key(path)
        print(f"wrote {path}: a key of 256 random bits, readable by its owner only")
    return 0
