"""Run an aggregator and a fleet of emulated phones together, in virtual time, from one readable file.

SCENARIO is a TOML file or the name of a scenario that comes with fedfer. Every call and every training step
is real: only time is made up, by what the devices' profiles say. Written to --output: record.json, the final
weights, the model. Broken off and started again with the same settings, a simulation goes on from the last
round that it took down.

Example: fedfer simulate article
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fedfer.cli.engine_options import add_engine_arguments
from fedfer.model.errors import UsageError

if TYPE_CHECKING:
    from fedfer.android_stub.simulation.scenario import Scenario
    from fedfer.cli.simulation_means import Means

MAX_PROCESSES = 1024
HELP = "run aggregator and fleet together in virtual time, from one file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("scenario", nargs="?", metavar="SCENARIO", help="a TOML file, or the name of a packaged scenario")
    add("--list", action="store_true", help="name the scenarios that come with fedfer, then exit")
    add("--output", type=Path, metavar="DIR", help="where results go; the scenario's name, if not given")
    add("--data", metavar="SOURCE", help="the devices' images, instead of the scenario's")
    add("--holdout-data", metavar="SOURCE", help="the server's images, instead of the scenario's")
    add("--rounds", type=int, metavar="N", help="number of rounds, instead of the scenario's")
    add("--seed", type=int, metavar="N", help="seed of everything, instead of the scenario's")
    add(
        "--set",
        dest="changes",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="another setting of the scenario, as in run.rounds.num_clients=5",
    )
    add(
        "--processes",
        type=int,
        metavar="N",
        help="processes that train; if not given 2, or one for each processor of the cluster with --ray",
    )
    add(
        "--ray",
        metavar="ADDRESS",
        help="train on a Ray cluster, at HOST:PORT or `auto`; `local` starts one on this machine",
    )
    add_engine_arguments(parser)
    add("--fresh", action="store_true", help="begin anew, even if a simulation in --output could go on")


def run(args: argparse.Namespace) -> int:
    import shlex
    import sys

    from fedfer.android_stub.simulation.scenario import packaged

    if args.list:
        print(*packaged(), sep="\n")
        return 0
    if args.scenario is None:
        raise UsageError("expected a SCENARIO: a TOML file, or a name that --list shows")
    if args.processes is not None and not 1 <= args.processes <= MAX_PROCESSES:
        raise UsageError(f"expected --processes of 1 to {MAX_PROCESSES}; received {args.processes}")
    scenario = wanted_scenario(args)
    from fedfer.cli.simulated_runs import SimulatedRun

    command = shlex.join(["fedfer", *sys.argv[1:]])
    output = args.output or Path(scenario.name)
    simulated = SimulatedRun(scenario, output, wanted_means(args, scenario), command)
    simulated.run(fresh=args.fresh)
    return 0


def wanted_means(args: argparse.Namespace, scenario: "Scenario") -> "Means":
    """Raises UsageError for an engine without its model, InterpreterError without a runtime."""
    from fedfer.cli.engine_options import engine_choice
    from fedfer.cli.simulation_means import Means
    from fedfer.export.runtime import pick_runtime

    if args.engine != "keras" or scenario.model.path is not None or args.keras_model is not None:
        engine_choice(args)  # a model that is exported here brings its Keras model with it
    runtime = pick_runtime(args.runtime)
    return Means(runtime, args.processes, args.engine, args.keras_model, args.ray)


def wanted_scenario(args: argparse.Namespace) -> "Scenario":
    """The scenario with what the arguments change. Raises UsageError."""
    import json

    from fedfer.android_stub.simulation.scenario import load_scenario, resolved

    changes = []
    here = {"data.source": args.data, "holdout.source": args.holdout_data}
    options: dict[str, object] = {
        key: resolved(source, Path.cwd()) for key, source in here.items() if source is not None
    }
    options |= {"run.num_rounds": args.rounds, "seed": args.seed}
    for key, value in options.items():
        if value is not None:
            changes.append(f"{key}={json.dumps(value)}")
    return load_scenario(args.scenario, [*changes, *args.changes])
