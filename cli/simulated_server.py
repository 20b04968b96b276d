"""The aggregator of a simulation: the one that `fedfer serve` runs, but for its clock, which the calls bring.

Started by `fedfer simulate` as `python -m fedfer.cli.simulated_server CONFIG.json`; listens on loopback only.
Every call carries the virtual time it is made at (header Fedfer-Simulated-Time); time never goes back. One
call is added: `POST /simulation/settle` lets deadlines have their effect and waits until no round is being
averaged.
"""

import json
import logging
import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedfer.aggregator import logs
from fedfer.android_stub.simulation.server_link import START, TIME_HEADER
from fedfer.cli.serve import listen, serve
from fedfer.model.errors import FedferError

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp, Receive, Scope, Send

    from fedfer.aggregator.config import ServerConfig
    from fedfer.aggregator.runs import Run

RUN = "simulated"
PARENT_SEC = 0.2  # between looks at whether the simulation still runs
WAIT_SEC = 1.0  # between looks at why a round does not close


@dataclass(frozen=True)
class SimulatedServer:
    """What CONFIG.json holds. `settings` and `pace` are as in a run file; port 0 takes any."""

    data_dir: str
    model: str
    settings: dict[str, Any]
    runtime: str
    active_sec: float
    pace: dict[str, Any]
    port: int = 0


class SimulatedClock:
    """Seconds since the epoch, the latest that a call brought."""

    def __init__(self) -> None:
        self.now = START.timestamp()

    def __call__(self) -> float:
        return self.now


class TimeHeader:
    """ASGI middleware that sets the clock from each request."""

    def __init__(self, app: "ASGIApp", clock: SimulatedClock) -> None:
        self._app, self._clock, self._name = app, clock, TIME_HEADER.lower().encode()

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        for name, value in scope.get("headers", ()):
            if name == self._name:
                self._clock.now = max(self._clock.now, float(value))
        await self._app(scope, receive, send)


def simulated_app(config: "ServerConfig") -> "FastAPI":
    """The aggregator's application on the calls' clock, with the call to settle."""
    from fedfer.aggregator.app import create_app

    clock = SimulatedClock()
    app = create_app(config, clock)

    def settle() -> dict[str, Any]:
        return standing(app.state.service.run(RUN), app.state.service.closing_problems)

    app.add_api_route("/simulation/settle", settle, methods=["POST"], response_model=None)
    app.add_middleware(TimeHeader, clock=clock)
    return app


def standing(run: "Run", problems: Any) -> dict[str, Any]:
    """Where the run stands once nothing is under way; `problem` says why a round cannot be closed."""
    with run.changed:
        run.pass_deadline()
        while run.round_.phase == "aggregating" and not run.is_over:
            run.changed.wait(WAIT_SEC)
            if problem := problems().get(run.name):
                break
        else:
            problem = None
        round_ = run.round_
        is_begun = round_.phase == "open" and round_.selected_at is not None
        return {
            "problem": problem,
            "state": run.state,
            "round": round_.number,
            "phase": round_.phase,
            "num_clients": round_.settings.num_clients,
            "num_updates": len(round_.updates),
            "is_async": round_.settings.is_async,
            "deadline_sec": round_.deadline_at - run.clock() if is_begun else None,
            "weights": run.result_weights if run.is_over else run.newest_weights,
            "stop_reason": run.end.reason if run.end else None,
            "stop_text": run.end.text if run.end else None,
        }


def main(argv: list[str]) -> int:
    """Serves until SIGTERM. One line on stderr for what fails."""
    from fedfer.aggregator.config import RunConfig, ServerConfig
    from fedfer.aggregator.pace import Pace
    from fedfer.aggregator.run_files import parse_settings
    from fedfer.model.strict_settings import from_mapping

    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    logs.set_up("text", sys.stderr)
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    try:
        wanted = SimulatedServer(**json.loads(Path(argv[0]).read_text()))
        config = ServerConfig(
            data_dir=Path(wanted.data_dir),
            runs=(RunConfig(Path(wanted.model), RUN, settings=parse_settings(wanted.settings)),),
            runtime=wanted.runtime,
            pace=from_mapping(Pace, wanted.pace, "server.pace"),
            active_sec=wanted.active_sec,
            token_days=36_500,
        )
        listener = listen("127.0.0.1", wanted.port)
        port = listener.getsockname()[1]
        serve(simulated_app(config), config, listener, f"serving on http://127.0.0.1:{port}")
    except FedferError as error:
        print(f"simulated aggregator: {error}", file=sys.stderr)
        return 1
    return 0


def _leave_with(parent: int) -> None:
    """A simulation that is killed outright leaves no server behind, which would keep its directory."""
    while os.getppid() == parent:
        time.sleep(PARENT_SEC)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
