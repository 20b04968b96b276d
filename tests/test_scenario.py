"""Scenarios as TOML: what is read from them, what is refused, and by which words."""

from pathlib import Path
from typing import Any

import pytest

from fedfer.aggregator.run_files import parse_settings
from fedfer.android_stub.simulation.attacks import attack_settings
from fedfer.android_stub.simulation.faults import fault_settings
from fedfer.android_stub.simulation.fleets import fleet_profiles
from fedfer.android_stub.simulation.scenario import load_scenario, packaged, parse_scenario, resolved
from fedfer.model.errors import UsageError


def parsed(**body: Any) -> Any:
    return parse_scenario({"name": "x", **body}, "", Path())


@pytest.mark.parametrize("name", packaged())
def test_those_of_the_package_hold_what_they_must(name: str) -> None:
    scenario = load_scenario(name)
    assert scenario.name == name
    assert scenario.title
    run = {key: value for key, value in scenario.run.items() if key not in ("stopping", "gates")}
    assert parse_settings(run).rounds.num_clients <= scenario.num_devices
    assert len(fleet_profiles(scenario.profiles, None, 3, scenario.seed)) == 3
    fault_settings(scenario.faults)
    if scenario.attack:
        attack_settings(scenario.attack)


def test_what_is_left_out_has_its_default() -> None:
    scenario = parsed(partition={"num_devices": 7})
    assert (scenario.num_devices, scenario.partition.scheme, scenario.seed) == (7, "iid", 0)
    assert scenario.as_json()["partition"]["num_devices"] == 7


def test_changes_are_toml() -> None:
    changed = load_scenario("article", ["run.rounds.batch_size=8", 'partition.scheme="iid"', "seed=3"])
    assert (changed.run["rounds"]["batch_size"], changed.partition.scheme, changed.seed) == (8, "iid", 3)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"rounds": 3}, "a scenario has no 'rounds'"),
        ({"seed": "one"}, "scenario: seed is 'one'; expected a whole number"),
        ({"seed": -1}, "seed is -1; expected 0 to"),
        ({"data": 3}, "data is 3; expected settings by name"),
        ({"data": {"path": "x"}}, "data has no setting 'path'"),
        ({"model": {"path": "a", "source": "b"}}, "model: expected source or path; received both"),
        ({"partition": {"num_devices": 0}}, "num_devices is 0; expected 1 to"),
        ({"partition": {"scheme": "fair"}}, "expected a partition of"),
        ({"target_accuracy": 0.9}, "target_accuracy needs a"),
        ({"target_accuracy": 2.0, "holdout": {}}, "target_accuracy is 2.0; expected"),
        ({"profiles": 3}, "profiles is 3; expected"),
        ({"server": {"port": 1}}, "server has no setting 'port'"),
        ({"server": {"active_sec": 0.0}}, "server: active_sec is 0; expected above 0"),
        ({"name": "../else"}, "name is '../else'; expected that of a folder"),
        ({"name": ".."}, "name is '..'; expected that of a folder"),
        ({"name": "/tmp"}, "name is '/tmp'; expected that of a folder"),
        ({"name": "a\nb"}, "expected that of a folder"),
        ({"name": "a" * 65}, "expected that of a folder, 1 to 64 characters"),
        ({"trace": "a\0b"}, "'trace' is .*; expected a text without zero characters"),
        ({"model": {"options": {"labels": ["\0"]}}}, "'model.options.labels' is .* without zero characters"),
    ],
)
def test_what_makes_no_scenario_is_refused(body: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parsed(**body)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("seed", "expected KEY=VALUE"),
        ("seed=", "expected KEY=VALUE"),
        ("seed=1\ntitle='more'", "expected KEY=VALUE"),
        ("name=mine", "expected KEY=VALUE"),
        ("name.x=1", "names no setting"),
        ("sed=1", "a scenario has no 'sed'"),
    ],
)
def test_bad_changes_are_refused(change: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load_scenario("article", [change])


def test_bad_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read scenario 'nowhere.toml'.*expected a TOML file or"):
        load_scenario("nowhere.toml")
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="is not TOML"):
        load_scenario(str(path))
    path.write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(UsageError, match="has more than 1048576 bytes"):
        load_scenario(str(path))
    path.write_text("a = " + "[" * 100_000)
    with pytest.raises(UsageError, match="is not TOML"):
        load_scenario(str(path))


def test_paths_are_relative_to_the_scenario() -> None:
    folder = Path("/data/scenarios")
    assert resolved("drawn", folder) == "drawn"
    assert resolved("train.csv", folder) == "/data/scenarios/train.csv"
    assert resolved("mnist:digits", folder) == "mnist:/data/scenarios/digits"
    assert resolved("/other/train.csv", folder) == "/other/train.csv"
