"""The aggregator of a simulation: its own call, `POST /simulation/settle`."""

import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from served_here import serving_here
from server_helpers import Phone, synthetic_update

from fedfer.aggregator import closing
from fedfer.aggregator.config import RunConfig, ServerConfig
from fedfer.aggregator.connections import PatientH11
from fedfer.aggregator.run_files import parse_settings
from fedfer.cli import simulated_server
from fedfer.export.contract import read_contract

MOST_SEC = 20.0


def test_whoever_settles_is_woken_by_the_new_version(
    tiny_tflite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by a look at the clock, for which every round of a simulation would wait."""
    asked = threading.Event()

    def standing(*arguments: Any) -> dict[str, Any]:
        asked.set()
        return found_by(*arguments)

    def aggregate(*arguments: Any) -> closing.Candidate:
        asked.wait(MOST_SEC)
        time.sleep(0.5)  # by now it waits
        return aggregated_by(*arguments)

    found_by, aggregated_by = simulated_server.standing, closing.aggregate
    monkeypatch.setattr(simulated_server, "standing", standing)
    monkeypatch.setattr("fedfer.aggregator.closer.aggregate", aggregate)
    monkeypatch.setattr(simulated_server, "WAIT_SEC", 2 * MOST_SEC)
    settings = parse_settings({"num_rounds": 2, "rounds": {"num_clients": 1}})
    config = ServerConfig(tmp_path, (RunConfig(tiny_tflite, simulated_server.RUN, settings=settings),))
    found: list[dict[str, Any]] = []
    with (
        serving_here(simulated_server.simulated_app(config), PatientH11) as (host, port),
        httpx.Client(base_url=f"http://{host}:{port}", timeout=4 * MOST_SEC) as client,
    ):
        phone = Phone(client, "phone").enrol()
        phone.upload(phone.work(), synthetic_update(read_contract(tiny_tflite), 1))
        settling = threading.Thread(target=lambda: found.append(client.post("/simulation/settle").json()))
        settling.start()
        settling.join(MOST_SEC)
        in_time = found[:]
    assert [(standing["phase"], standing["round"]) for standing in in_time] == [("open", 2)]
