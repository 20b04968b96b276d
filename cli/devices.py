"""Run emulated phones against an aggregator: each trains the served .tflite on its own images.

Phone i of the fleet is called phone-i. The command ends when the server says that training is over; it
fails when a phone gives up on the server or is refused.

Example: fedfer devices --server http://127.0.0.1:8750 --count 3 --data drawn --examples-per-device 5
"""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fedfer.android_stub.backoff import RetryPolicy
from fedfer.cli.data_options import SOURCE_HELP, USAGE_HELP
from fedfer.cli.engine_options import add_engine_arguments, engine_choice
from fedfer.cli.key_files import ENROL_VARIABLE, read_key
from fedfer.cli.partition_options import add_partition_arguments, partition_settings
from fedfer.model.errors import UsageError

if TYPE_CHECKING:
    from fedfer.android_stub.events import Event
    from fedfer.android_stub.summary import FleetSummary
    from fedfer.model.data import LabelledImages
    from fedfer.model.dirichlet import Parts

HELP = "run emulated phones against an aggregator"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--server", metavar="URL", help="the aggregator, as http://HOST:PORT; has to be given")
    add("--run", dest="run_name", metavar="NAME", help="run to work for; if not given, the server chooses")
    add(
        "--enrol-key-file",
        type=Path,
        metavar="FILE",
        help=f"key to enrol with, as the aggregator was given it; {ENROL_VARIABLE} if not given",
    )
    add("--ca-file", type=Path, metavar="FILE", help="certificates (PEM) to trust, instead of the system's")
    add(
        "--count",
        type=int,
        metavar="N",
        help="number of phones; if not given, one for each value of --column",
    )
    add("--data", required=True, metavar="SOURCE", help=SOURCE_HELP)
    add("--skip", type=int, default=0, metavar="N", help="images of the source to leave out first")
    add("--take", type=int, metavar="N", help="images to share out, counted after --skip; all, if not given")
    add("--data-seed", type=int, default=0, metavar="N", help="seed of drawn faces")
    add("--usage", metavar="NAME", help=USAGE_HELP)
    add_partition_arguments(parser)
    add("--examples-per-device", type=int, metavar="N", help="images per phone; all shared out, if not given")
    add(
        "--plot-partition",
        type=Path,
        metavar="FILE.png",
        help="draw who holds what and exit; needs no server",
    )
    add("--processes", type=int, default=2, metavar="N", help="processes that carry the phones")
    add("--seed", type=int, default=0, metavar="N", help="seed of partition, image order and dropout")
    add_engine_arguments(parser)
    add(
        "--cache-dir",
        type=Path,
        metavar="DIR",
        help="where fetched models and weights stay, and what phones keep: killed at any moment, the same "
        "command goes on from each phone's last step; a temporary directory, if not given",
    )
    add(
        "--give-up-sec",
        type=float,
        default=RetryPolicy.give_up_sec,
        metavar="SEC",
        help="seconds that a phone goes on trying to reach the server",
    )


def run(args: argparse.Namespace) -> int:
    import tempfile

    from fedfer.android_stub.fleet import ending_on_signals, run_fleet
    from fedfer.android_stub.worker import WorkerSettings

    if args.plot_partition is not None:
        print(plot_partition(args))
        return 0
    if args.server is None:
        raise UsageError("expected --server URL, the aggregator to work for (or --plot-partition FILE.png)")
    enrol_key = read_key(args.enrol_key_file, ENROL_VARIABLE, os.environ, _warn)
    engine = engine_choice(args)
    holdings = load_holdings(args)
    with ending_on_signals(), tempfile.TemporaryDirectory(prefix="fedfer-devices-") as temporary:
        settings = WorkerSettings(
            server_url=args.server,
            cache_dir=args.cache_dir or Path(temporary),
            engine=engine,
            seed=args.seed,
            retry=RetryPolicy(give_up_sec=args.give_up_sec),
            enrol_key=enrol_key,
            ca_file=args.ca_file,
            run=args.run_name,
            keeps_devices=args.cache_dir is not None,
        )
        summary = run_fleet(settings, holdings, args.processes, Narrator())
    print(describe_summary(summary), flush=True)
    return 0


def _warn(text: str) -> None:
    print(f"fedfer devices: {text}", file=sys.stderr)


def load_holdings(args: argparse.Namespace) -> "list[LabelledImages]":
    """The images of each phone. Raises UsageError, DataError."""
    images, parts = load_parts(args)
    return [images.take(part) for part in parts]


def load_parts(args: argparse.Namespace) -> "tuple[LabelledImages, Parts]":
    """All images, and which of them each phone holds. Raises UsageError, DataError."""
    from fedfer.model.partition import num_owners, partition
    from fedfer.model.sources import DRAWN, load_images

    settings = partition_settings(args)
    if (args.count or 0) < 1 and (args.count is not None or settings.column is None):
        raise UsageError(f"expected a --count of at least 1; received {args.count}")
    take = args.take
    if take is None and args.data == DRAWN and args.examples_per_device and args.partition != "dirichlet":
        take = args.count * args.examples_per_device  # faces have no end; draw those that are needed
    images = load_images(
        args.data,
        skip=args.skip,
        take=take,
        seed=args.data_seed,
        usage=args.usage,
        owner_column=settings.column,
    )
    count = num_owners(images.owners) if args.count is None and images.owners is not None else args.count
    return images, partition(images.labels, count, settings, owners=images.owners, seed=args.seed)


def plot_partition(args: argparse.Namespace) -> str:
    """Draws who holds what; returns a line about it. Raises UsageError, DataError."""
    import io
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise UsageError("--plot-partition draws with matplotlib: pip install 'fedfer[plot]'")
    from fedfer.cli.export import write_whole
    from fedfer.cli.partition_plot import describe_partition, draw_partition
    from fedfer.model.partition import partition_counts
    from fedfer.model.sources import label_names

    write_whole(args.plot_partition, None, "--plot-partition")
    images, parts = load_parts(args)
    names = label_names(args.data, int(images.labels.max()) + 1)
    counts = partition_counts(images.labels, parts, len(names))
    picture = io.BytesIO()
    draw_partition(picture, counts, names, f"Who holds what: {args.partition}, seed {args.seed}")
    write_whole(args.plot_partition, picture.getvalue())
    return f"wrote {args.plot_partition}: {describe_partition(counts)}"


class Narrator:
    """Prints events as lines; what became of a round only once, though every process tells it."""

    def __init__(self) -> None:
        self._rounds_told: set[tuple[str, int]] = set()

    def __call__(self, event: "Event") -> None:
        from fedfer.android_stub.events import RoundSeen

        if isinstance(event, RoundSeen):
            told = (event.result.run, event.result.round)
            if told in self._rounds_told:
                return
            self._rounds_told.add(told)
        print(describe_event(event), flush=True)


def describe_event(event: "Event") -> str:
    """One line for a person."""
    from fedfer.android_stub.events import Finished, Note, RoundSeen, Trained

    match event:
        case Trained():
            return (
                f"{event.device} round {event.round}: loss {event.loss:.2f} accuracy {event.accuracy:.2f}, "
                f"{event.train_sec:.1f} s, {event.update_bytes / 1e6:.1f} MB up"
            )
        case RoundSeen(result=result):
            held_out = (
                f", held out: loss {result.holdout_loss:.2f} accuracy {result.holdout_accuracy:.2f}"
                if result.holdout_loss is not None and result.holdout_accuracy is not None
                else ""
            )
            return f"round {result.round} {result.phase}: {result.num_updates} updates{held_out}"
        case Note():
            return f"{event.device}: {event.text}"
        case Finished():
            return f"{event.device}: finished"
    return f"{event.device}: {event.error}"


def describe_summary(summary: "FleetSummary") -> str:
    return (
        f"{summary.num_devices} phones, {summary.num_rounds} rounds: {summary.num_updates} updates of "
        f"{summary.num_examples} examples, {summary.received_bytes / 1e6:.1f} MB down, "
        f"{summary.sent_bytes / 1e6:.1f} MB up\nfinal weights {summary.final_weights}"
    )
