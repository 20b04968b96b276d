"""Settings of `fedfer serve` from file, environment and flags: who wins, what is shown, what is refused."""

import argparse
import os
import subprocess
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server_helpers import SERVE

from fedfer.aggregator.logs import masked
from fedfer.aggregator.round_opening import opening_settings
from fedfer.aggregator.run_files import load_run
from fedfer.cli import serve
from fedfer.cli.settings import Setting, describe, mark_defaults, settle, values_of
from fedfer.model.errors import UsageError


def settled(arguments: str, environ: dict[str, str] | None = None) -> dict[str, Setting]:
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    return serve.settings_of(parser.parse_args(arguments.split()), environ or {})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "fedfer.toml"
    path.write_text('model = "m.tflite"\ndata-dir = "d"\nclients = 4\nrounds = 7\nkeep-updates = true\n')
    return path


@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize("in_environment", [False, True])
@pytest.mark.parametrize("as_flag", [False, True])
def test_flags_win_over_environment_over_file(
    file: Path, in_file: bool, in_environment: bool, as_flag: bool
) -> None:
    arguments = (f"--config {file} " if in_file else "") + ("--clients 6" if as_flag else "")
    found = settled(arguments, {"FEDFER_CLIENTS": "5"} if in_environment else {})["clients"]
    if as_flag:
        assert (found.value, found.source) == (6, "flag --clients")
    elif in_environment:
        assert (found.value, found.source) == (5, "environment FEDFER_CLIENTS")
    elif in_file:
        assert (found.value, found.source) == (4, str(file))
    else:
        assert (found.value, found.source) == (3, "default")


def test_a_flag_that_repeats_the_default_still_wins(file: Path) -> None:
    assert settled(f"--config {file} --clients 3")["clients"].value == 3


def test_the_file_may_be_named_by_the_environment_and_give_everything(file: Path) -> None:
    values = values_of(settled("", {"FEDFER_CONFIG": str(file), "FEDFER_LEARNING_RATE": "0.5"}))
    config = serve.config_of(values)
    (run,) = config.runs
    assert (run.model, config.data_dir, run.settings.num_rounds) == (Path("m.tflite"), Path("d"), 7)
    assert (run.settings.keep_updates, run.settings.rounds.learning_rate) == (True, 0.5)
    assert settled("--keep-updates")["keep_updates"].source == "flag --keep-updates"
    assert settled("m.tflite")["model"].source == "command line"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("clientss = 4", "unknown key 'clientss'; did you mean clients?"),
        ("zzz = 4", "unknown key 'zzz'$"),
        ("[rounds]\nclients = 4", "rounds is {'clients': 4}; expected a whole number"),
        ('clients = "4"', "clients is '4'; expected a whole number"),
        ("clients = 4.0", "clients is 4.0; expected a whole number"),
        ("clients = true", "clients is True; expected a whole number"),
        ("keep-updates = 1", "keep-updates is 1; expected true or false"),
        ("data-dir = 4", "data-dir is 4; expected a text in quotes"),
        ('runtime = "flex"', "runtime is 'flex'; expected one of auto, tflite-runtime"),
        ("clients = ", "is not TOML"),
        ("clients = 4\nclients = 5", "is not TOML"),
        ("a = " + "[" * 5000, "is not TOML"),
        ("# " + "x" * (1 << 20), "more than 1048576 bytes"),
    ],
)
def test_what_a_file_may_not_say(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=words) as caught:
        settled(f"--config {path}")
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*none.toml: No such file"):
        settled(f"--config {tmp_path / 'none.toml'}")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="is not TOML"):
        settled(f"--config {tmp_path / 'binary'}")


@pytest.mark.parametrize(
    ("variable", "text", "words"),
    [
        ("FEDFER_CLIENTSS", "4", "unknown variable FEDFER_CLIENTSS; did you mean FEDFER_CLIENTS?"),
        ("FEDFER_CLIENTS", "four", "FEDFER_CLIENTS is 'four'; expected a whole number"),
        ("FEDFER_DEADLINE_SEC", "", "FEDFER_DEADLINE_SEC is ''; expected a number"),
        ("FEDFER_KEEP_UPDATES", "maybe", "FEDFER_KEEP_UPDATES is 'maybe'; expected true or false"),
        ("FEDFER_RUNTIME", "flex", "FEDFER_RUNTIME is 'flex'; expected one of"),
    ],
)
def test_what_a_variable_may_not_say(variable: str, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        settled("", {variable: text, "PATH": "/bin"})


@pytest.mark.parametrize("variable", ["FEDFER_ADMIN_KEY", "FEDFER_ENROL_KEY", "FEDFER_SERVER"])
def test_variables_of_others_are_left_alone(variable: str) -> None:
    assert settled("", {variable: "x", "OTHER": "y"})["clients"].value == 3


def test_lists_in_the_environment_and_in_the_file(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config")
    parser.add_argument("--port", type=int, action="append")
    options = mark_defaults(parser)
    path = tmp_path / "f.toml"
    path.write_text("port = [1, 2]")
    assert settle(parser.parse_args(["--config", str(path)]), options, {})["port"].value == [1, 2]
    assert settle(parser.parse_args([]), options, {"FEDFER_PORT": "3,4"})["port"].value == [3, 4]
    assert settle(parser.parse_args(["--port", "5"]), options, {"FEDFER_PORT": "3"})["port"].value == [5]
    path.write_text("port = 1")
    with pytest.raises(UsageError, match="port is 1; expected a list"):
        settle(parser.parse_args(["--config", str(path)]), options, {})


def test_a_missing_setting_is_told_with_its_three_sources() -> None:
    with pytest.raises(UsageError, match=r"data-dir is not set; .* FEDFER_DATA_DIR, or as `data-dir ="):
        values_of(settled("m.tflite"))


@given(st.text(st.characters(exclude_categories=["Cs"])), st.floats(allow_nan=False))
@settings(max_examples=50)
def test_what_is_shown_is_a_file_that_means_the_same(text: str, number: float) -> None:
    shown = {"a": Setting("a", text, "default"), "b": Setting("b", number, "default")}
    shown |= {"c": Setting("c", None, "default", required=True), "d": Setting("d", [True, 3], "x")}
    assert tomllib.loads(describe(shown)) == {"a": masked(text), "b": number, "d": [True, 3]}


def test_passwords_are_masked() -> None:
    url = "postgresql+psycopg://fedfer:s3cret@db:5432/fedfer"
    assert masked(url) == "postgresql+psycopg://fedfer:***@db:5432/fedfer"
    assert masked("s3://bucket/prefix") == "s3://bucket/prefix"
    assert "s3cret" not in describe({"u": Setting("database-url", url, "default")})


def test_show_config_of_the_command(file: Path) -> None:
    command = [*SERVE, "--config", str(file), "--clients", "5", "--show-config"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    shown = tomllib.loads(done.stdout)
    assert (shown["clients"], shown["rounds"], shown["keep-updates"]) == (5, 7, True)
    sources = dict(line.rsplit("  # ", 1) for line in done.stdout.splitlines())
    assert {k.split()[0]: v for k, v in sources.items()}["clients"] == "flag --clients"
    assert done.stderr == ""


def test_what_a_server_bears_is_set_like_all_else(tmp_path: Path) -> None:
    (tmp_path / "f.toml").write_text("max-runs = 5\nactive-sec = 60\n")
    environ = {"FEDFER_MAX_DEVICES": "9", "FEDFER_MAX_CONCURRENT_CHECKS": "3"}
    found = settled(f"m.tflite --data-dir d --config {tmp_path / 'f.toml'} --body-idle-sec 2", environ)
    config = serve.config_of(values_of(found))
    assert (config.max_runs, config.active_sec, config.max_devices) == (5, 60.0, 9)
    assert (config.max_concurrent_checks, config.body_idle_sec) == (3, 2.0)
    shown = tomllib.loads(describe(found))
    assert (shown["max-runs"], shown["body-idle-sec"], shown["max-devices"]) == (5, 2.0, 9)


def test_show_config_shows_no_secret(file: Path) -> None:
    keys = {"FEDFER_ADMIN_KEY": "admin-s3cret-key", "FEDFER_ENROL_KEY": "enrol-s3cret-key"}
    url = "postgresql+psycopg://fedfer:s3cret@db/fedfer"
    environ = {**os.environ, **keys, "FEDFER_DATABASE_URL": url}
    command = [*SERVE, "--config", str(file), "--show-config"]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=True)
    assert "s3cret" not in done.stdout
    shown = tomllib.loads(done.stdout)
    assert shown["database-url"] == "postgresql+psycopg://fedfer:***@db/fedfer"
    assert all(f"# {name} = ***  # environment" in done.stdout for name in keys)


def test_show_config_shows_what_the_runs_of_files_are_opened_with(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        'name = "small"\nmodel = "m.tflite"\nnum_rounds = 9\n[rounds]\nnum_clients = 7\nmin_clients = 2\n'
        '[strategy]\nname = "krum"\nnum_byzantine = 1\n[gates]\nmax_norm_ratio = 4\n'
    )
    command = [*SERVE, "m.tflite", "--data-dir", "d", "--run", str(path), "--rounds", "3", "--show-config"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert tomllib.loads(done.stdout)["rounds"] == 3
    options, told = done.stdout.split("\n\n")
    assert f'run = ["{path}"]' in options
    title, *lines = [line.removeprefix("# ") for line in told.splitlines()]
    assert title.startswith(f"{path}: the run small;")
    sources = dict(line.rsplit("  # ", 1) for line in lines)
    by_key = {line.split(" = ")[0]: source for line, source in sources.items()}
    expected = {
        "num_rounds": str(path),
        "seed": "default",
        "rounds.num_clients": str(path),
        "rounds.deadline_sec": "default",
        "rounds.min_clients": "the strategy",
        "strategy.num_byzantine": str(path),
    }
    assert {key: by_key[key] for key in expected} == expected
    assert "# stopping is not set" in {line.strip() for line in sources}
    copy = tmp_path / "copy.toml"
    copy.write_text("\n".join(lines))
    (as_shown, as_given) = load_run(copy), load_run(path)
    opened = replace(as_given.settings, rounds=opening_settings(as_given.settings))
    assert as_shown == replace(as_given, settings=opened)
    body = tomllib.loads(copy.read_text())
    assert body["rounds"].keys() >= {"local_epochs", "mode", "min_updates"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("m.tflite --data-dir d --clients 0", "clients is 0; expected 1 to 10000 (from flag --clients)"),
        ("m.tflite --data-dir d --port 65536", "port is 65536; expected 0 to 65535 (from flag --port)"),
        ("m.tflite --data-dir d --strategy krum,num_byzantine=3", "needs at least"),
        ("m.tflite --data-dir d --host 0.0.0.0", "without an enrolment key would let anybody in"),
        ("m.tflite --data-dir d --weights-url file://x", "weights-url is 'file'; expected s3://"),
        ("m.tflite --data-dir d --run none.toml", "cannot read none.toml"),
        ("m.tflite", "data-dir is not set"),
        ("--data-dir none", "nothing to serve"),
    ],
)
def test_show_config_refuses_what_a_start_would(options: str, words: str, tmp_path: Path) -> None:
    for shows in (["--show-config"], []):
        done = subprocess.run(
            [*SERVE, *options.split(), *shows], capture_output=True, text=True, cwd=tmp_path, check=False
        )
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert words in done.stderr


def test_a_bad_value_names_its_source() -> None:
    environ = {**os.environ, "FEDFER_CLIENTS": "0", "FEDFER_DATA_DIR": "d", "FEDFER_MODEL": "m"}
    done = subprocess.run(SERVE, capture_output=True, text=True, env=environ, check=False)
    assert done.returncode == 1
    assert "clients is 0; expected 1 to 10000 (from environment FEDFER_CLIENTS)" in done.stderr
