"""Serve a model to devices: rounds of federated averaging over HTTP, as docs/protocol.md describes.

Stopped and started again on the same data directory, it goes on where it was.
"""

import argparse
import logging
import os
import signal
import socket
import ssl
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fedfer.aggregator import logs
from fedfer.aggregator.config import (
    DATABASE_URL,
    HoldoutSource,
    RoundSettings,
    RunConfig,
    RunSettings,
    ServerConfig,
)
from fedfer.cli import serve_access, serve_learning, serve_shown
from fedfer.cli.data_options import SOURCE_HELP, USAGE_HELP
from fedfer.cli.settings import (
    Option,
    Setting,
    add_numbers,
    mark_defaults,
    naming_sources,
    settle,
    values_of,
)
from fedfer.model.errors import UsageError

if TYPE_CHECKING:
    from fastapi import FastAPI

HELP = "run the aggregator that devices train with"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where defaults are settings of the aggregator, `ServerConfig` and its parts state them."""
    declare(parser)


def declare(parser: argparse.ArgumentParser) -> tuple[Option, ...]:
    """Adds the arguments; returns them as settings that a file and the environment may give too."""
    add = parser.add_argument
    add(
        "model",
        type=Path,
        nargs="?",
        metavar="MODEL.tflite",
        help="file made by `fedfer export`: what the run called `default` trains; none if not given",
    )
    add(
        "--run",
        dest="run_files",
        type=Path,
        action="append",
        metavar="RUN.toml",
        help="another run to open",
    )
    add("--config", type=Path, metavar="FILE", help="TOML file with any of these options, without the dashes")
    add("--show-config", action="store_true", help="print every setting and where it came from, then exit")
    add("--data-dir", type=Path, help="directory for state and weights; made if missing; has to be given")
    add("--database-url", metavar="URL", help=f"{DATABASE_URL}; SQLite in the data directory if not given")
    add(
        "--weights-url",
        metavar="URL",
        help="s3://BUCKET/PREFIX?endpoint=URL: weights go there, not only here",
    )
    add(
        "--cache-bytes", type=float, default=ServerConfig.cache_bytes, help="kept here of what the bucket has"
    )
    add("--weights", type=Path, help="initial weights (.safetensors) instead of those in the model file")
    add("--host", default="127.0.0.1", help="address to listen on")
    add("--port", type=int, default=8750, help="TCP port; 0 takes any free one")
    add("--rounds", type=int, default=RunSettings.num_rounds, help="number of rounds")
    add("--clients", type=int, default=RoundSettings.num_clients, help="updates that close a round")
    add(
        "--min-clients",
        type=int,
        help="updates that suffice at the deadline; half of those wanted, or of the devices, if not given",
    )
    add(
        "--over-selection",
        type=float,
        default=RoundSettings.over_selection,
        help="places given for each update that is wanted; the first updates count",
    )
    add(
        "--selection-sec",
        type=float,
        default=RoundSettings.selection_sec,
        help="seconds that places are kept for the devices drawn, if there are more devices than places",
    )
    add(
        "--min-devices",
        type=int,
        default=RoundSettings.min_devices,
        help="devices that have to be there before a round begins",
    )
    add("--seed", type=int, default=RunSettings.seed, help="decides which devices are drawn")
    add("--deadline-sec", type=float, default=RoundSettings.deadline_sec, help="seconds a round may take")
    add("--local-epochs", type=int, default=RoundSettings.local_epochs, help="passes over a device's images")
    add("--batch-size", type=int, default=RoundSettings.batch_size, help="images a training step")
    add("--learning-rate", type=float, help="of the devices' steps; the model's own if not given")
    add(
        "--learning-rate-decay",
        type=float,
        default=RoundSettings.learning_rate_decay,
        help="the learning rate of each round, as a multiple of that of the round before",
    )
    add("--holdout", metavar="SOURCE", help=SOURCE_HELP)
    add("--holdout-usage", metavar="NAME", help=USAGE_HELP)
    add("--holdout-skip", type=int, default=HoldoutSource.skip, help="images of the holdout source to skip")
    add("--holdout-take", type=int, help="images of the holdout source to take; all if not given")
    add("--data-seed", type=int, default=HoldoutSource.seed, help="seed of drawn images")
    add(
        "--runtime",
        choices=("auto", "tflite-runtime", "ai-edge-litert"),
        default=ServerConfig.runtime,
        help="what runs the .tflite; auto takes the first that is installed",
    )
    add("--keep-updates", action="store_true", help="keep the updates' files after their round")
    add(
        "--grace-sec",
        type=int,
        default=ServerConfig.grace_sec,
        help="seconds that calls under way get when the server is stopped",
    )
    bounds = (
        ("--max-runs", int, "number of runs, over or not, beyond which none can be added over HTTP"),
        ("--max-devices", int, "number of devices that may enrol"),
        ("--active-sec", float, "seconds of silence after which a device is not counted on"),
        ("--body-idle-sec", float, "seconds after which an upload that sends nothing is given up"),
        ("--max-concurrent-checks", int, "number of uploads whose tensors are checked at a time"),
    )
    add_numbers(add, ServerConfig, bounds)
    add(
        "--log-format",
        choices=logs.LOG_FORMATS,
        default="text",
        help="lines for people, or JSON for programs",
    )
    serve_learning.add_arguments(parser)
    serve_access.add_arguments(parser)
    return mark_defaults(parser, required=("data_dir",))


def settings_of(args: argparse.Namespace, environ: Mapping[str, str]) -> dict[str, Setting]:
    """All settings of the server from flags, environment and file. Raises UsageError."""
    return settle(args, declare(argparse.ArgumentParser(add_help=False)), environ)


def run(args: argparse.Namespace) -> int:
    """Serves until SIGTERM or SIGINT. Raises FedferError when it cannot start."""
    settings, shows = settings_of(args, os.environ), args.show_config
    args = values_of(settings)
    with naming_sources(settings):
        check_address(args.host, args.port)
        access = serve_access.access_of(args, os.environ, _warn)
        config = replace(
            config_of(args),
            limits=access.limits,
            keyring=access.keyring,
            token_days=access.token_days,
        )
        serve_shown.check(config)
    if shows:
        files = args.run_files or []
        of_files = zip(files, config.runs[len(config.runs) - len(files) :], strict=True)
        print(serve_shown.shown(settings, of_files, os.environ))
        return 0
    from fedfer.aggregator.app import create_app
    from fedfer.export.checkpoint import digest_of
    from fedfer.export.contract import load_model_bytes, read_contract

    models = [load_model_bytes(run.model) for run in config.runs]
    for model in models:
        read_contract(model)
    served = ", ".join(dict.fromkeys(map(digest_of, models))) or "what its directory holds"
    listener = listen(args.host, args.port)
    address, port = listener.getsockname()[:2]
    logs.set_up(args.log_format, sys.stderr)
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # what fails at start is one line of ours
    where = url(address, port, "https" if access.tls else "http")
    serve(create_app(config), config, listener, f"serving {served} on {where}", access.tls)
    return 0


def serve(
    app: "FastAPI",
    config: ServerConfig,
    listener: socket.socket,
    ready: str,
    tls: ssl.SSLContext | None = None,
) -> None:
    """Serves on the socket until a signal; prints `ready` when it accepts connections. Raises FedferError."""
    import uvicorn

    from fedfer.aggregator.http_server import settle_process, uvicorn_config

    class Server(uvicorn.Server):
        """Says when it accepts connections."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                settle_process()
                print(ready, flush=True)

    server = Server(uvicorn_config(app, config.limits, tls, config.grace_sec))

    def leave(*_: object) -> None:
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises what it caught again once it has stopped
        signal.signal(number, leave)
    try:
        server.run(sockets=[listener])
    except SystemExit:  # how uvicorn leaves when the application cannot start
        error = app.state.startup_error
        if error is not None:
            raise error from None
        raise


def config_of(args: argparse.Namespace) -> ServerConfig:
    """The settings that the arguments stand for. Raises UsageError."""
    from fedfer.aggregator.run_files import load_run

    runs = [load_run(path) for path in args.run_files or ()]
    if args.model is not None:
        runs.insert(0, RunConfig(args.model, initial_weights=args.weights, settings=_run_settings(args)))
    elif not runs and not args.data_dir.is_dir():
        raise UsageError("nothing to serve: expected MODEL.tflite, --run RUN.toml, or a --data-dir with runs")
    return ServerConfig(
        data_dir=args.data_dir,
        runs=tuple(runs),
        runtime=args.runtime,
        database_url=args.database_url,
        weights_url=args.weights_url,
        cache_bytes=args.cache_bytes,
        grace_sec=args.grace_sec,
        pace=serve_learning.pace_of(args),
        max_runs=args.max_runs,
        max_devices=args.max_devices,
        active_sec=args.active_sec,
        body_idle_sec=args.body_idle_sec,
        max_concurrent_checks=args.max_concurrent_checks,
    )


def _run_settings(args: argparse.Namespace) -> RunSettings:
    """What the options say of the run called `default`. Raises UsageError."""
    holdout = None
    if args.holdout is None:
        if (args.holdout_take, args.holdout_usage, args.holdout_skip) != (None, None, HoldoutSource.skip):
            raise UsageError("--holdout-take, -skip and -usage are of no use without --holdout SOURCE")
    else:
        holdout = HoldoutSource(
            args.holdout, args.holdout_skip, args.holdout_take, args.data_seed, args.holdout_usage
        )
    settings = RunSettings(
        rounds=RoundSettings(
            num_clients=args.clients,
            min_clients=args.min_clients,
            deadline_sec=args.deadline_sec,
            local_epochs=args.local_epochs,
            batch_size=args.batch_size,
            learning_rate=args.learning_rate,
            learning_rate_decay=args.learning_rate_decay,
            over_selection=args.over_selection,
            selection_sec=args.selection_sec,
            min_devices=args.min_devices,
        ),
        seed=args.seed,
        num_rounds=args.rounds,
        holdout=holdout,
        keep_updates=args.keep_updates,
    )
    return serve_learning.with_learning(settings, args)


def check_address(host: str, port: int) -> None:
    """Raises UsageError for what can be no address to listen on."""
    if not host:
        raise UsageError("--host is empty; expected an address to listen on (0.0.0.0 for all)")
    if not 0 <= port < 2**16:
        raise UsageError(f"port is {port}; expected 0 to 65535")


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises UsageError when the address cannot be had."""
    check_address(host, port)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Only with its protocol named does asyncio set TCP_NODELAY; without, each small reply waits 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise UsageError(f"cannot listen on {host} port {port}: {error}") from None
    return listener


def url(host: str, port: int, scheme: str = "http") -> str:
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _warn(text: str) -> None:
    print(f"fedfer serve: {text}", file=sys.stderr)
