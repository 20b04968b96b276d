"""The `fedfer` command itself: help, versions, exit codes, and how little it loads."""

import argparse
import re
import subprocess
import sys
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest

from fedfer.cli.main import COMMANDS, build_parser, main

HEAVY = {
    "tensorflow",
    "keras",
    "numpy",
    "tflite_runtime",
    "ai_edge_litert",
    "fastapi",
    "sqlalchemy",
    "httpx",
    "uvicorn",
    "matplotlib",
    "safetensors",
}
MOST_HELP_SEC = 1.0  # of processor time
# What a number counts or measures: one of these words is in its help or its name.
UNITS = {
    "bytes",
    "clients",
    "devices",
    "epochs",
    "examples",
    "evenness",
    "images",
    "number",
    "port",
    "processes",
    "rate",
    "rounds",
    "sec",
    "seconds",
    "seed",
}
UNITS |= {
    "connections",
    "days",
    "epsilon",
    "momentum",
    "norm",
    "share",
    "smoothing",
    "size",
    "step",
    "updates",
    "versions",
}


def fedfer(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fedfer.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def subparsers() -> dict[str, argparse.ArgumentParser]:
    (action,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(action.choices)


def test_console_script_is_this_main() -> None:
    (script,) = entry_points(group="console_scripts", name="fedfer")
    assert script.load() is main


def test_version() -> None:
    done = fedfer("--version")
    assert (done.returncode, done.stdout) == (0, f"fedfer {version('fedfer')}\n")


def test_help_lists_every_command() -> None:
    done = fedfer("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for name, parser in subparsers().items():
        assert f"    {name}" in [line.rstrip()[: len(name) + 4] for line in done.stdout.splitlines()]
        assert parser.description


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_names_every_option_and_default(command: str) -> None:
    done = fedfer(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    shown = " ".join(done.stdout.split())
    for action in subparsers()[command]._actions:
        if action.option_strings and action.dest != "help":
            assert f" {action.option_strings[-1]} " in shown.replace("]", " ")
            if str(action.default) not in ("None", "False", argparse.SUPPRESS):
                assert f"(default: {action.default})" in shown


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_help_and_numbers_have_units(command: str) -> None:
    for action in subparsers()[command]._actions:
        assert action.help, action.dest
        if action.type in (int, float):
            words = set(re.findall("[a-z]+", f"{action.help} {action.dest}".lower()))
            assert words & UNITS, f"{command} {action.dest}: {action.help}"


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = (
        "import contextlib, io, sys, time\n"
        "from fedfer.cli.main import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "    main(['--help'])\n"
        "print(time.process_time(), *{name.partition('.')[0] for name in sys.modules})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, *loaded = done.stdout.split()
    assert HEAVY.isdisjoint(loaded)
    assert float(seconds) < MOST_HELP_SEC


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["inspect"], "the following arguments are required: file"),
        (["inspect", "x.tflite", "--yaml"], "unrecognized arguments: --yaml"),
        (["export", "--dropout", "much"], "invalid float value: 'much'"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], message: str) -> None:
    done = fedfer(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_fedfer_errors_become_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["inspect", str(tmp_path / "absent.tflite")]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert (
        shown.err == f"fedfer inspect: cannot read {tmp_path / 'absent.tflite'}: No such file or directory\n"
    )


def test_other_errors_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug must show its traceback, and Ctrl-C one word and the shell's usual code."""
    from fedfer.cli import inspect

    def fail(args: argparse.Namespace) -> int:
        raise ZeroDivisionError

    def interrupt(args: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(inspect, "run", fail)
    with pytest.raises(ZeroDivisionError):
        main(["inspect", "x"])
    monkeypatch.setattr(inspect, "run", interrupt)
    assert main(["inspect", "x"]) == 130


def test_output_that_nobody_reads_any_more_is_no_failure_to_explain(tiny_tflite: Path) -> None:
    command = [sys.executable, "-m", "fedfer.cli.main", "inspect", str(tiny_tflite)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b"", 141)
