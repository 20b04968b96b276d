"""Reading the record of a simulation: what is sound is taken, whatever else is refused in one line."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulation_records import LABELS, make_record

from fedfer.cli.simulation_report import record as records
from fedfer.cli.simulation_report.record import parse_record, read_record
from fedfer.model.errors import DataError

MEASURES = make_record()["final"]["measures"]


def parse(body: object) -> records.Record:
    return parse_record(json.dumps(body).encode(), "record.json")


def refusal(data: bytes) -> str:
    with pytest.raises(DataError) as caught:
        parse_record(data, "record.json")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_record_is_read_as_it_is() -> None:
    record = parse(make_record(num_devices=10, num_rounds=4, attackers=2))
    assert (record.name, record.seed, record.final.round) == ("made-up", 7, 4)
    assert record.model.labels == LABELS
    assert [each.round for each in record.rounds] == [0, 1, 2, 3, 4]
    assert record.rounds[1].updates[9].code == "norm_too_large"
    assert record.devices[9].attack == "sign_flip"
    assert record.faults[1].device is None
    assert record.scenario["partition"] == {"kind": "dirichlet", "alpha": 0.5}


def test_from_a_file_or_its_folder(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text(json.dumps(make_record()))
    assert read_record(tmp_path) == read_record(tmp_path / "record.json")


def test_keys_that_are_not_known_are_left_alone() -> None:
    body = make_record(later="something")
    body["rounds"][1]["later"] = [1]
    assert parse(body) == parse(make_record())


@pytest.mark.parametrize(
    ("data", "came"),
    [
        (b"", "no JSON"),
        (b"\x00\xff", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"1" * 5000, "no JSON"),
        (b"[]", "JSON without it"),
        (b"{}", "JSON without it"),
        (b'{"format": "fedfer.simulation/2"}', "'fedfer.simulation/2'"),
        (b'{"format": ["\\u001b[2J"]}', r"['\x1b[2J']"),
    ],
)
def test_what_is_no_record(data: bytes, came: str) -> None:
    assert refusal(data) == (
        "record.json is not a record of fedfer simulate: expected JSON of format fedfer.simulation/1; "
        f"received {came}"
    )


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("name",), 3, "name: Input should be a valid string"),
        (("rounds",), {}, "rounds: Input should be a valid array"),
        (("rounds", 2, "loss"), "1.0", "rounds.2.loss: Input should be a valid number"),
        (("rounds", 2, "loss"), float("nan"), "rounds.2.loss: Input should be a finite number"),
        (("rounds", 2, "accuracy"), 1.5, "rounds.2.accuracy: Input should be less than or equal to 1"),
        (("rounds", 2, "bytes_up"), -1, "rounds.2.bytes_up: Input should be greater than or equal to 0"),
        (("rounds", 2, "bytes_up"), 2**70, "rounds.2.bytes_up: Input should be less than or equal to"),
        (("rounds", 2, "round"), 1, "rounds: expected each once, in order"),
        (("rounds", 1, "updates", 0, "device"), "x" * 3000, "rounds.1.updates.0.device: String should have"),
        (("devices", 1, "name"), "phone-0", "devices: expected each name once"),
        (("devices", 1, "label_counts"), [1], "label_counts of phone-1: expected 7, one for each label"),
        (("devices", 1, "busy_sec"), 1e300, "devices.1.busy_sec: Input should be less than"),
        (("model", "labels"), ["x"] * 1001, "model.labels: Tuple should have at most 1000 items"),
        (
            ("final", "measures", "confusion"),
            [[1]],
            "final.measures: expected recall and confusion of 7 labels",
        ),
        (("final", "measures", "per_class_recall"), [0.5], "final.measures: expected recall and confusion"),
        (
            ("mean",),
            {"weights": "d", "rounds": [1], "measures": {**MEASURES, "confusion": [[1]]}},
            "mean.measures: expected recall and confusion of 7 labels",
        ),
        (("mean",), {"weights": "d", "rounds": [-1]}, "mean.rounds.0: Input should be greater than"),
        (("refusals", "round_over"), 0.5, "refusals.round_over: Input should be a valid integer"),
        (("toml",), None, "toml: Input should be a valid string"),
        (("scenario",), [], "scenario: Input should be"),
    ],
)
def test_what_is_unsound_is_named(path: tuple[Any, ...], value: object, says: str) -> None:
    body: Any = make_record()
    place = body
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert refusal(json.dumps(body).encode()).startswith(f"record.json is no sound record: {says}")


def test_text_of_the_file_cannot_drive_a_terminal() -> None:
    body = make_record()
    body["devices"][1]["name"] = "\x1b[2J\n"
    body["devices"][1]["label_counts"] = [1]
    assert "\x1b" not in refusal(json.dumps(body).encode())


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "record.json").write_text(json.dumps(make_record()))
    monkeypatch.setattr(records, "MAX_RECORD_BYTES", 1000)
    with pytest.raises(DataError, match="larger than 1000 bytes"):
        read_record(tmp_path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*: No such file or directory; expected a record of"):
        read_record(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(key=st.sampled_from(sorted(make_record())), value=JSON)
@settings(max_examples=80)
def test_any_value_is_taken_or_refused(key: str, value: object) -> None:
    """Never another error."""
    body = {**make_record(num_devices=2, num_rounds=1), key: value}
    with contextlib.suppress(DataError):
        assert parse(body).format == records.FORMAT
