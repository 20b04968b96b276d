"""Federated training from end to end, on this machine: the article's scenario with emulated phones.

Exports the network, starts an aggregator on a free port of the loopback interface, runs the phones
against it, each training the served .tflite on its own images, and measures every global model on images
that no phone holds. Results of an earlier demo in --output are replaced.

Example: fedfer demo --data train.csv.gz --devices 3 --rounds 6
"""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from fedfer.cli.demo_plan import DRAWN, MIN_PROCESSES, DemoPlan
from fedfer.cli.partition_options import add_partition_arguments
from fedfer.model.errors import UsageError
from fedfer.model.settings import DROPOUT

if TYPE_CHECKING:
    from fedfer.cli.children import Children
    from fedfer.cli.demo_output import DemoOutput
    from fedfer.cli.reports import RoundReport
    from fedfer.cli.watch import Screen
    from fedfer.model.data import LabelledImages

HELP = "the whole loop on this machine: export, serve, train on emulated phones, evaluate"

READY_SEC = 180.0
LEAVE_SEC = 120.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--output", type=Path, default=Path("demo-out"), metavar="DIR", help="where the results go")
    add("--data", default=DRAWN, metavar="SOURCE", help="images: `drawn`, or a FER2013-like .csv or .csv.gz")
    add("--devices", type=int, default=3, metavar="N", help="number of emulated phones")
    add("--examples-per-device", type=int, default=5, metavar="N", help="images that each phone holds")
    add("--rounds", type=int, default=6, metavar="N", help="rounds of federated averaging")
    add("--local-epochs", type=int, default=3, metavar="N", help="passes over a phone's images in a round")
    add("--batch-size", type=int, default=5, metavar="N", help="images in a training step")
    add("--learning-rate", type=float, default=0.02, metavar="RATE", help="of SGD on the phones")
    add("--dropout", type=float, default=DROPOUT, help="share of activations dropped in training, 0 to <1")
    add_partition_arguments(parser, ("contiguous", "iid", "dirichlet", "shards"))
    add(
        "--holdout-data",
        metavar="SOURCE",
        help="images to measure the global model on; if not given, those of --data after the phones'",
    )
    add("--holdout-take", type=int, default=5, metavar="N", help="number of images to measure on")
    add(
        "--processes",
        type=int,
        metavar="N",
        help=f"processes that carry the phones; if not given, one a phone up to {MIN_PROCESSES} or the cores",
    )
    add("--seed", type=int, default=0, metavar="N", help="seed of weights, faces, partition and training")
    add(
        "--runtime",
        choices=("auto", "tflite-runtime", "ai-edge-litert"),
        default="auto",
        help="what runs the .tflite; auto takes the first that is installed",
    )


def run(args: argparse.Namespace) -> int:
    import importlib.util

    from fedfer.cli.children import Children
    from fedfer.cli.demo_output import DemoOutput
    from fedfer.cli.watch import Screen

    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("the demo draws its curves with matplotlib: pip install 'fedfer[all]'")
    plan = DemoPlan(**{field.name: getattr(args, field.name) for field in dataclasses.fields(DemoPlan)})
    held_out = load_held_out(plan)
    output, screen = DemoOutput(args.output), Screen()
    output.prepare()
    with Children(output.logs) as children:
        export_network(plan, output, children, screen)
        reports = federate(plan, output, children, screen)
    finish(plan, output, reports, held_out, screen)
    return 0


def load_held_out(plan: DemoPlan) -> "LabelledImages":
    """Images to measure on. Reads the phones' too: a source that does not do fails here, not in minutes."""
    from fedfer.model.sources import load_images

    load_images(plan.data, take=plan.pool_size, seed=plan.seed)
    return load_images(plan.holdout_source, skip=plan.holdout_skip, take=plan.holdout_take, seed=plan.seed)


def export_network(plan: DemoPlan, output: "DemoOutput", children: "Children", screen: "Screen") -> None:
    """Writes the .tflite; what export checked is shown."""
    import time

    started = time.monotonic()
    screen.line("Exporting the network, and checking the file in the runtime that phones have ...")
    export = children.start(*plan.export_arguments(output.model))
    while export.is_running():
        screen.now(f"{time.monotonic() - started:.0f} s")
        time.sleep(0.2)
    screen.line(export.log.read_text(errors="replace").rstrip())


def federate(
    plan: DemoPlan, output: "DemoOutput", children: "Children", screen: "Screen"
) -> "list[RoundReport]":
    """Server and phones, each a child process; follows the rounds and fetches the final weights."""
    from fedfer.cli.children import wait_for_line
    from fedfer.cli.watch import Aggregator, RoundTable, watch_rounds

    screen.line(f"\nTraining: {plan.title()}; loss and accuracy")
    server = children.start(*plan.serve_arguments(output.model, output.server_data))
    url = wait_for_line(server, "serving ", READY_SEC).rsplit(" ", 1)[1]
    phones = children.start(*plan.devices_arguments(url))
    with Aggregator(url, children.check) as aggregator:
        table = RoundTable(screen, plan.phone_names)
        reports, final = watch_rounds(aggregator, plan.devices, table, screen)
        output.final.write_bytes(aggregator.get_weights(final))
    phones.wait(LEAVE_SEC)
    return reports


def finish(
    plan: DemoPlan,
    output: "DemoOutput",
    reports: "list[RoundReport]",
    held_out: "LabelledImages",
    screen: "Screen",
) -> None:
    """Measures the final weights, writes curves and numbers, and says where they lie."""
    from fedfer.cli.evaluate import describe_measures, measures_as_json
    from fedfer.cli.plots import draw_curves
    from fedfer.cli.reports import write_csv, write_json
    from fedfer.export.contract import read_contract
    from fedfer.export.evaluation import evaluate_apart

    measures = evaluate_apart(output.model, output.final, held_out, runtime=plan.runtime)
    labels = read_contract(output.model).labels
    screen.line("\nFinal global model on images that no phone holds")
    screen.line(describe_measures(measures, labels))
    write_csv(output.rounds_csv, reports)
    final = measures_as_json(measures, labels)
    write_json(output.rounds_json, reports, settings=dataclasses.asdict(plan), final=final)
    draw_curves(output.curves, reports, plan.title(), f"{plan.holdout_take} held-out images")
    screen.line(f"\n{output.describe()}")
