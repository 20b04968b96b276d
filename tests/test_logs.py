"""The server's log: its two forms, and what never stands in it."""

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server_helpers import Phone, serving, synthetic_update, wait_for_round

from fedfer.aggregator.logs import LogFormat, about, masked, set_up
from fedfer.export.contract import read_contract

logger = logging.getLogger("fedfer.aggregator")


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    fedfer = logging.getLogger("fedfer")
    kept = (fedfer.handlers[:], fedfer.level, fedfer.propagate)
    yield
    fedfer.handlers[:], fedfer.level, fedfer.propagate = kept


def logged(form: LogFormat, message: str, *args: object, **kwargs: object) -> str:
    stream = io.StringIO()
    set_up(form, stream)
    logger.info(message, *args, **kwargs)  # type: ignore[arg-type]
    return stream.getvalue()


def test_json_has_the_fields_that_are_known() -> None:
    line = json.loads(logged("json", "update %d in", 3, extra=about(run="a", round=2, device="d1")))
    stamp = line.pop("time")
    assert line == {"level": "info", "message": "update 3 in", "run": "a", "round": 2, "device": "d1"}
    assert len(stamp) == len("2026-01-31T12:00:00.123Z")
    assert stamp.endswith("Z")
    assert "run" not in json.loads(logged("json", "started"))


def test_text_is_a_line_for_people() -> None:
    line = logged("text", "update %d in", 3, extra=about(run="a"))
    assert line.endswith(" INFO update 3 in\n")


@pytest.mark.parametrize("form", ["text", "json"])
def test_setting_up_twice_logs_once(form: LogFormat) -> None:
    set_up(form, io.StringIO())
    assert logged(form, "once").count("once") == 1


@given(st.text())
@settings(max_examples=100)
def test_whatever_is_logged_stays_one_line(text: str) -> None:
    for form in ("text", "json"):
        line = logged(form, "said %s", text)
        assert line.endswith("\n")
        assert len(line.splitlines()) == 1
    assert json.loads(logged("json", "said %s", text))["message"] == masked(f"said {text}")


def test_a_bug_has_its_traceback_in_both_forms() -> None:
    try:
        raise ValueError("postgresql://fedfer:s3cret@db/x")
    except ValueError as error:
        text, line = logged("text", "failed", exc_info=error), logged("json", "failed", exc_info=error)
    assert "Traceback" in text
    assert len(text.splitlines()) > 2
    assert len(line.splitlines()) == 1
    assert "Traceback" in json.loads(line)["traceback"]
    assert "s3cret" not in text + line


def test_the_log_of_a_round_is_json(tiny_tflite: Path, tmp_path: Path) -> None:
    """Every line of a real server's log; fields where they are known; no token."""
    options = ["--clients", "1", "--rounds", "1", "--log-format", "json"]
    with serving(tiny_tflite, tmp_path / "data", *options) as server, server.client() as client:
        phone = Phone(client, "phone").enrol()
        work, body = phone.work(), synthetic_update(read_contract(tiny_tflite), 1)
        phone.upload(work, body[:1000])
        phone.upload(work, body)
        wait_for_round(client, 1)
        assert server.stop() == 0
    lines = [json.loads(line) for line in server.lines]
    (accepted,) = (line for line in lines if " accepted: " in line["message"])
    assert (accepted["run"], accepted["round"], accepted["device"]) == ("default", 1, phone.device_id)
    (refused,) = (line for line in lines if "code" in line)
    assert (refused["code"], refused["level"]) == ("truncated", "info")
    assert (refused["run"], refused["round"], refused["device"]) == ("default", 1, phone.device_id)
    assert any(line.get("round") == 1 and "round 1 done" in line["message"] for line in lines)
    assert phone.token not in server.log.read_text()


def test_secrets_are_masked() -> None:
    assert masked("postgresql+psycopg://u:p@h/d?x=1") == "postgresql+psycopg://u:***@h/d?x=1"
    assert masked("Authorization: Bearer abc-_.~+/=1 sent") == "Authorization: Bearer *** sent"
    assert (
        masked("s3://bucket/prefix, http://127.0.0.1:8750/x") == "s3://bucket/prefix, http://127.0.0.1:8750/x"
    )
