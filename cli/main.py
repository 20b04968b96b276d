"""The `fedfer` command: picks the subcommand, turns a FedferError into one line and exit code 1.

Each subcommand is a module of this package with `HELP`, `add_arguments(parser)` and `run(args) -> int`.
They import nothing heavy at module level, so that `fedfer --help` answers at once, without TensorFlow.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version

from fedfer.model.errors import FedferError

COMMANDS = (
    *("train", "export", "inspect", "keys", "serve", "devices"),
    *("runs", "rounds", "versions", "evaluate", "inference", "demo"),
    *("simulate", "report", "compare"),
)


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, except where there is none to show: such options say in words what they do without."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if str(action.default) in ("None", "False"):  # also those that `settings.mark_defaults` wrapped
            return action.help
        return super()._get_help_string(action)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0 done, 1 failed (one line on stderr), 2 wrong usage."""
    args = build_parser().parse_args(argv)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads the output, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except FedferError as error:
        print(f"fedfer {args.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"fedfer {args.command}: interrupted", file=sys.stderr)
        return 130
    return code


def build_parser() -> argparse.ArgumentParser:
    """The parser with all subcommands."""
    parser = argparse.ArgumentParser(prog="fedfer", description="Federated training on phones.")
    parser.add_argument("--version", action="version", version=f"fedfer {version('fedfer')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        module = import_module(f"fedfer.cli.{name}")
        command = commands.add_parser(
            name,
            help=module.HELP,
            description=module.__doc__,
            formatter_class=HelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
