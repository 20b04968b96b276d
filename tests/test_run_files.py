"""Runs as TOML and JSON: what is read, and how mistakes are refused."""

import json
from pathlib import Path

import pytest

from fedfer.aggregator.config import HoldoutSource, RoundSettings, RunConfig, RunSettings
from fedfer.aggregator.gates import GateSettings
from fedfer.aggregator.retention import RetentionSettings
from fedfer.aggregator.run_files import load_run, parse_settings, settings_json
from fedfer.aggregator.stopping import StoppingSettings
from fedfer.model.errors import UsageError

WHOLE = """
name = "faces-2"
model = "m.tflite"
initial_weights = "start.safetensors"
num_rounds = 20
seed = 7
keep_updates = true
[rounds]
num_clients = 10
min_clients = 4
deadline_sec = 300
local_epochs = 1
batch_size = 16
learning_rate = 0.5
fraction = 0.1
over_selection = 1.5
mode = "async"
[strategy]
name = "fedprox"
proximal_mu = 0.1
[stopping]
patience = 3
[gates]
max_norm_ratio = 4
[retention]
keep_last = 5
[holdout]
source = "drawn"
take = 70
"""


def written(directory: Path, text: str) -> Path:
    path = directory / "run.toml"
    path.write_text(text)
    return path


def test_a_whole_file(tmp_path: Path) -> None:
    settings = RunSettings(
        rounds=RoundSettings(10, 4, 300.0, 1, 16, 0.5, fraction=0.1, over_selection=1.5, mode="async"),
        num_rounds=20,
        strategy={"name": "fedprox", "proximal_mu": 0.1},
        stopping=StoppingSettings(patience=3),
        gates=GateSettings(max_norm_ratio=4.0),
        retention=RetentionSettings(keep_last=5),
        holdout=HoldoutSource("drawn", take=70),
        seed=7,
        keep_updates=True,
    )
    paths = tmp_path / "m.tflite", tmp_path / "start.safetensors"
    assert load_run(written(tmp_path, WHOLE)) == RunConfig(paths[0], "faces-2", paths[1], settings)


def test_a_short_file_has_the_defaults(tmp_path: Path) -> None:
    run = load_run(written(tmp_path, 'name = "a"\nmodel = "m"'))
    assert run == RunConfig(tmp_path / "m", "a")


def test_settings_survive_json(tmp_path: Path) -> None:
    for settings in (RunSettings(), load_run(written(tmp_path, WHOLE)).settings):
        assert parse_settings(json.loads(json.dumps(settings_json(settings)))) == settings


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('model = "m"', "name is missing"),
        ('name = "a"', "model is missing"),
        ('name = "A b"\nmodel = "m"', "run name is 'A b'; expected 1 to 40"),
        ('name = "a"\nmodel = 5', "model is 5; expected text"),
        ('name = "a"\nmodel = "m"\nepochs = 1', "run has no setting 'epochs'"),
        ('name = "a"\nmodel = "m"\n[rounds]\nclients = 1', "rounds has no setting 'clients'"),
        (
            'name = "a"\nmodel = "m"\n[rounds]\nnum_clients = "5"',
            "rounds: num_clients is '5'; expected a whole",
        ),
        ('name = "a"\nmodel = "m"\n[rounds]\nnum_clients = 0', "clients is 0; expected 1 to"),
        ('name = "a"\nmodel = "m"\n[rounds]\ndeadline_sec = nan', "rounds: deadline_sec is nan"),
        ('name = "a"\nmodel = "m"\nrounds = 5', "rounds is 5; expected settings by name"),
        ('name = "a"\nmodel = "m"\n[strategy]\nname = "fedsum"', "strategy 'fedsum' is unknown"),
        ('name = "a"\nmodel = "m"\n[strategy]\nname = "krum"\nf = 1', "strategy krum has no setting 'f'"),
        ('name = "a"\nmodel = "m"\n[stopping]\npatience = 0', "stopping: patience is 0"),
        ('name = "a"\nmodel = "m"\n[stopping]\npatience = 3', "holdout is None; expected images"),
        ('name = "a"\nname = "b"', "is not TOML"),
        ("[[", "is not TOML"),
    ],
)
def test_mistakes_are_named(text: str, words: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UsageError, match=words) as caught:
        load_run(path)
    assert str(path) in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*none"):
        load_run(tmp_path / "none")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="is not TOML"):
        load_run(tmp_path / "binary")
    (tmp_path / "large").write_bytes(b" " * (2**20 + 1))
    with pytest.raises(UsageError, match="more than"):
        load_run(tmp_path / "large")
