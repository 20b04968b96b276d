"""What Prometheus is told: counted by a real server in a real round, read by Prometheus's own parser."""

import math
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from server_helpers import OCTETS, Phone, serving, synthetic_update, wait_for_round
from waiting import wait_for

from fedfer.aggregator.metrics import (
    MAX_LABEL_VALUES,
    OTHER,
    Metrics,
    RunSample,
    StateCollector,
    StateSample,
)
from fedfer.export.contract import read_contract
from fedfer.model.errors import StoreError

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(page: str) -> Samples:
    families = text_string_to_metric_families(page)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((name, frozenset(labels.items())), math.nan)


def scraped(client: httpx.Client) -> Samples:
    reply = client.get("/metrics")
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("text/plain; version=1.0.0")
    return parsed(reply.text)


def test_a_round_in_numbers(tiny_tflite: Path, tmp_path: Path) -> None:
    contract = read_contract(tiny_tflite)
    options = ["--clients", "2", "--rounds", "2", "--holdout", "drawn", "--holdout-take", "4"]
    with serving(tiny_tflite, tmp_path / "data", *options) as server, server.client() as client:
        phones = [Phone(client, f"phone-{i}").enrol() for i in range(2)]
        works = [phone.work() for phone in phones]
        bodies = [synthetic_update(contract, seed) for seed in range(2)]
        assert phones[0].upload(works[0], bodies[0][:1000]).status_code == 400
        for phone, work, body in zip(phones, works, bodies, strict=True):
            assert phone.upload(work, body).status_code == 200
        record = wait_for_round(client, 1)
        client.get(f"/v1/models/{works[0]['model']}")
        committed = {"run": "default", "outcome": "committed"}
        wait_for(lambda: value(scraped(client), "fedfer_rounds_closed_total", **committed) == 1)
        found = scraped(client)
        update, model = "/v1/runs/{run}/rounds/{round}/update", "/v1/models/{sha256}"
        assert value(found, "fedfer_updates_total", run="default", outcome="accepted") == 2
        assert value(found, "fedfer_updates_total", run="default", outcome="truncated") == 1
        assert value(found, "fedfer_refusals_total", route=update, code="truncated") == 1
        assert value(found, "fedfer_received_bytes_total", route=update) == 1000 + sum(map(len, bodies))
        assert value(found, "fedfer_sent_bytes_total", route=model) == tiny_tflite.stat().st_size
        assert value(found, "fedfer_request_seconds_count", route=update, method="PUT", status="200") == 2
        for stage, count in {"receive": 3, "check": 3, "store": 2, "close": 1}.items():
            assert value(found, "fedfer_stage_seconds_count", stage=stage) == count
        assert value(found, "fedfer_holdout_loss", run="default") == pytest.approx(record["holdout_loss"])
        assert value(found, "fedfer_run_state", run="default", state="running") == 1
        assert value(found, "fedfer_round", run="default") == 2
        assert value(found, "fedfer_devices") == 2
        assert value(found, "fedfer_ready") == 1
        assert value(found, "process_resident_memory_bytes") > 1e7


def test_nobody_can_make_labels(tiny_tflite: Path, tmp_path: Path) -> None:
    """Paths, methods and runs that a client invents are one label each."""
    with serving(tiny_tflite, tmp_path / "data") as server, server.client() as client:
        phone = Phone(client, "phone").enrol()
        for i in range(30):
            client.get(f"/v1/nothing/{i}")
            client.request(f"MADE{i}", "/healthz")
            headers = {**phone.headers, **OCTETS}
            client.put(f"/v1/runs/made-up-{i}/rounds/1/update", content=b"x", headers=headers)
        before = scraped(client)
        page = client.get("/metrics").text
        assert "made-up" not in page
        assert "MADE" not in page
        assert "/v1/nothing" not in page
        assert value(before, "fedfer_updates_total", run="unknown", outcome="unknown_run") == 30
        assert value(before, "fedfer_refusals_total", route="unknown", code="not_found") == 30


@given(st.lists(st.text(max_size=3), max_size=600))
@settings(max_examples=20)
def test_label_values_are_bounded_whatever_comes(names: list[str]) -> None:
    metrics = Metrics()
    for name in names:
        metrics.update(name, "accepted")
    found = parsed(metrics.page().decode())
    runs = {dict(labels)["run"] for (name, labels) in found if name == "fedfer_updates_total"}
    assert len(runs) <= MAX_LABEL_VALUES + 1
    assert sum(v for (name, _), v in found.items() if name == "fedfer_updates_total") == len(names)
    assert (OTHER in runs) == (len(set(names) - {OTHER}) > MAX_LABEL_VALUES or OTHER in names)


def test_a_database_that_is_away_takes_no_counter_with_it() -> None:
    def sample() -> StateSample:
        raise StoreError("locked")

    metrics = Metrics()
    metrics.registry.register(StateCollector(sample))
    metrics.round_closed("default", "rolled_back")
    found = parsed(metrics.page().decode())
    assert value(found, "fedfer_state_readable") == 0
    assert value(found, "fedfer_rounds_closed_total", run="default", outcome="rolled_back") == 1
    assert ("fedfer_ready", frozenset()) not in found


def test_runs_without_a_holdout_have_no_measures() -> None:
    metrics = Metrics()
    sample = StateSample(3, None, False, [RunSample("a", "paused", 4, 2, None, None)])
    metrics.registry.register(StateCollector(lambda: sample))
    page = metrics.page().decode()
    found = parsed(page)
    assert value(found, "fedfer_run_state", run="a", state="paused") == 1
    assert value(found, "fedfer_round_updates", run="a") == 2
    assert value(found, "fedfer_ready") == 0
    assert "fedfer_holdout_loss{" not in page
    assert "fedfer_free_bytes" not in page
