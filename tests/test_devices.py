"""`fedfer devices` against `fedfer serve`, both as processes: the same weights however phones are spread,
waiting for a server that is down, stopping without leftovers, and what each phone holds."""

import argparse
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fleet_process import fleet
from mnist_files import write_mnist
from server_helpers import Server, serving, start
from waiting import PATIENCE_SEC, children_of, is_running, wait_for

from fedfer.cli.devices import add_arguments, load_holdings
from fedfer.model.errors import UsageError
from fedfer.model.sources import load_images

ROUNDS = ("--clients", "3", "--rounds", "3", "--local-epochs", "2", "--batch-size", "2")


@pytest.fixture(scope="module")
def undisturbed(tiny_tflite: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The final weights of three phones in one process."""
    directory = tmp_path_factory.mktemp("undisturbed")
    with (
        serving(tiny_tflite, directory / "data", *ROUNDS) as server,
        fleet(server.url, directory / "fleet", "--processes", "1") as phones,
    ):
        return phones.final_weights()


@pytest.mark.parametrize("processes", ["2", "3"])
def test_weights_do_not_depend_on_the_number_of_processes(
    processes: str, undisturbed: str, tiny_tflite: Path, tmp_path: Path
) -> None:
    """Nor does what is fetched: the model once, and the weights of each round once."""
    options = ("--processes", processes, "--cache-dir", str(tmp_path / "cache"))
    with (
        serving(
            tiny_tflite, tmp_path / "data", *ROUNDS, "--holdout", "drawn", "--holdout-take", "5"
        ) as server,
        fleet(server.url, tmp_path / "fleet", *options) as phones,
        server.client() as client,
    ):
        assert phones.final_weights() == undisturbed
        check_output(phones.out)
        rounds = client.get("/v1/runs/default/rounds").json()["rounds"]
    weights_bytes = rounds[1]["updates"][0]["received_bytes"]
    expected_bytes = tiny_tflite.stat().st_size + 3 * weights_bytes
    assert sum(record["bytes_down"] for record in rounds) == pytest.approx(expected_bytes, rel=0.01)
    assert list((phones.directory / "tmp").iterdir()) == []
    assert list((tmp_path / "cache" / "updates").iterdir()) == []


def check_output(out: str) -> None:
    measures = r"loss \d+\.\d\d accuracy \d\.\d\d"
    for number in (1, 2, 3):
        for phone in range(3):
            line = rf"^phone-{phone} round {number}: {measures}, \d+\.\d s, 0\.1 MB up$"
            assert len(re.findall(line, out, re.MULTILINE)) == 1, out
        told = rf"^round {number} done: 3 updates, held out: {measures}$"
        assert len(re.findall(told, out, re.MULTILINE)) == 1, out
    assert "3 phones, 3 rounds: 9 updates of 45 examples, " in out


def test_phones_wait_for_a_server_that_is_killed_and_started_again(
    undisturbed: str, tiny_tflite: Path, tmp_path: Path
) -> None:
    server = start(tiny_tflite, tmp_path / "data", *ROUNDS)
    again: Server | None = None
    try:
        with fleet(server.url, tmp_path / "fleet") as phones:
            wait_for(lambda: "round 1: loss" in phones.out)
            server.kill()
            wait_for(lambda: "trying again in" in phones.out)
            again = start(tiny_tflite, tmp_path / "data", *ROUNDS, port=server.port)
            assert phones.final_weights() == undisturbed
    finally:
        server.kill()
        if again is not None:
            again.kill()


@pytest.mark.parametrize(
    ("signal_number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_a_fleet_that_is_stopped_leaves_nothing_running(
    signal_number: signal.Signals, exit_code: int, tiny_tflite: Path, tmp_path: Path
) -> None:
    endless = ("--clients", "4", "--rounds", "1")  # one phone more than there are
    with (
        serving(tiny_tflite, tmp_path / "data", *endless) as server,
        fleet(server.url, tmp_path / "fleet") as phones,
    ):
        wait_for(lambda: phones.out.count("round 1: loss") == 3)
        children = children_of(phones.process.pid)
        assert len(children) >= 2
        if signal_number is signal.SIGINT:  # a terminal sends Ctrl-C to every process of the command
            os.killpg(phones.process.pid, signal_number)
        else:
            phones.process.send_signal(signal_number)
        assert phones.process.wait(PATIENCE_SEC) == exit_code
        wait_for(lambda: not any(is_running(pid) for pid in children))
        if signal_number is not signal.SIGKILL:
            assert list((phones.directory / "tmp").iterdir()) == []
            assert phones.err == ("fedfer devices: interrupted\n" if exit_code == 130 else "")


def test_a_server_that_never_answers_is_said_in_one_line(tmp_path: Path) -> None:
    with fleet("http://127.0.0.1:9", tmp_path / "fleet", "--give-up-sec", "1") as phones:
        assert phones.process.wait(PATIENCE_SEC) == 1
        assert re.fullmatch(
            r"fedfer devices: phone-\d: gave up on POST /v1/devices at http://127\.0\.0\.1:9 after 1 s "
            r"and \d attempts \(last: ConnectError: .*refused\); expected .*\n",
            phones.err,
        )
        assert "phone-0: POST /v1/devices at http://127.0.0.1:9 failed" in phones.out


# --- who holds what


def parse(*options: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(["--server", "http://h:1", *options])


def test_phones_hold_runs_of_the_source_and_nothing_twice() -> None:
    args = parse("--count", "3", "--data", "drawn", "--examples-per-device", "5", "--skip", "10")
    holdings = load_holdings(args)
    series = load_images("drawn", take=25)
    assert [len(held) for held in holdings] == [5, 5, 5]
    assert np.array_equal(np.concatenate([held.images for held in holdings]), series.images[10:25])
    assert np.array_equal(np.concatenate([held.labels for held in holdings]), series.labels[10:25])


def test_skewed_phones_draw_from_more_images_than_they_hold() -> None:
    dirichlet = ("--count", "4", "--data", "drawn", "--partition", "dirichlet", "--alpha", "0.1")
    holdings = load_holdings(parse(*dirichlet, "--take", "200", "--examples-per-device", "10"))
    assert [len(held) for held in holdings] == [10] * 4
    assert min(len(set(held.labels.tolist())) for held in holdings) <= 3
    with pytest.raises(UsageError, match="say how many to take"):
        load_holdings(parse(*dirichlet, "--examples-per-device", "10"))


def test_one_user_one_phone(tmp_path: Path) -> None:
    """Without --count as many phones as users; with it so many of them."""
    path, black = tmp_path / "faces.csv", " ".join(["0"] * 2304)
    rows = [f"{i},{black},{user}\n" for i, user in enumerate(("ben", "ann", "ben", "cleo"))]
    path.write_text("".join(["emotion,pixels,User\n", *rows]))
    users = ("--data", str(path), "--partition", "column", "--column", "user")
    assert [held.labels.tolist() for held in load_holdings(parse(*users))] == [[0, 2], [1], [3]]
    assert len(load_holdings(parse(*users, "--count", "2"))) == 2
    with pytest.raises(UsageError, match="4 devices need as many values in the column; it has 3"):
        load_holdings(parse(*users, "--count", "4"))
    with pytest.raises(UsageError, match="drawn has no columns; received user"):
        load_holdings(parse(*users, "--data", "drawn", "--take", "5"))


def test_shards_and_power_of_mnist(tmp_path: Path) -> None:
    source = f"mnist:{write_mnist(tmp_path)}"
    shards = ("--count", "5", "--partition", "shards", "--shards-per-device", "2")
    assert [len(held) for held in load_holdings(parse("--data", source, *shards))] == [4] * 5
    power = ("--count", "3", "--partition", "power", "--exponent", "2", "--usage", "test")
    assert [len(held) for held in load_holdings(parse("--data", source, *power))] == [6, 2, 2]


@pytest.mark.parametrize("odd", [(), ("--count", "0")])
def test_fleets_of_nothing_are_refused(odd: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="expected a --count of at least 1"):
        load_holdings(parse("--data", "drawn", *odd))


def test_running_devices_needs_neither_tensorflow_nor_the_server() -> None:
    code = (
        "import sys, fedfer.cli.devices, fedfer.android_stub.fleet, fedfer.export.runtime\n"
        "print(sys.modules.keys() & {'tensorflow', 'keras', 'fastapi', 'fedfer.aggregator'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
