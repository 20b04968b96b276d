"""Uploads that go wrong, to a real aggregator: what it takes, what it refuses, and that nothing is lost."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from client_helpers import paused_client
from server_helpers import Server, serving, start, synthetic_update

from fedfer.android_stub.client import AggregatorClient
from fedfer.android_stub.replies import Train
from fedfer.android_stub.simulation.faulty_uploads import (
    of_another_model,
    refusal_of,
    stale,
    upload_again,
    upload_cut,
    with_nan,
)
from fedfer.android_stub.upload import Update
from fedfer.export.checkpoint import digest_of
from fedfer.export.contract import Contract, read_contract
from fedfer.model.errors import FedferError, RefusedError

OPTIONS = ("--clients", "1", "--rounds", "50")


@dataclass
class Phone:
    """A device with work in the open round, and an update for it."""

    client: AggregatorClient
    work: Train
    update: Update
    contract: Contract

    @property
    def place(self) -> tuple[AggregatorClient, str, int]:
        return self.client, self.work.run, self.work.round


@contextmanager
def phone(server: Server, model: Path, directory: Path) -> Iterator[Phone]:
    """Asks until the round before has closed."""
    paused, contract = paused_client(server.url, directory), read_contract(model)
    client = paused.client
    client.enrol("phone-0")
    while not isinstance(work := client.ask_for_work(), Train):
        time.sleep(0.05)
    data = synthetic_update(contract, work.round)
    path = directory / "update"
    path.write_bytes(data)
    update = Update(path, digest_of(data), work.weights, 5, 1.5, 0.25, 2.0)
    with closing(paused.http):
        yield Phone(client, work, update, contract)


@pytest.fixture(scope="module")
def server(tiny_tflite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tiny_tflite, tmp_path_factory.mktemp("faulty") / "data", *OPTIONS) as running:
        yield running


@pytest.fixture
def one(server: Server, tiny_tflite: Path, tmp_path: Path) -> Iterator[Phone]:
    with phone(server, tiny_tflite, tmp_path) as found:
        yield found


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999, 1.0])
def test_a_cut_upload_is_gone_on_with(one: Phone, share: float) -> None:
    """Every byte comes, the update counts once; shares of 0 and 1 still send something and lack something."""
    receipt = upload_cut(*one.place, one.update, share)
    assert (receipt.update, receipt.round) == (one.update.sha256, one.work.round)
    assert receipt.received_bytes == one.update.path.stat().st_size
    assert one.client.upload_update(one.work.run, one.work.round, one.update) == receipt


def test_a_server_killed_in_the_middle_of_an_upload(tiny_tflite: Path, tmp_path: Path) -> None:
    servers = [start(tiny_tflite, tmp_path / "data", *OPTIONS)]

    def kill() -> None:
        servers[-1].kill()
        servers.append(start(tiny_tflite, tmp_path / "data", *OPTIONS, port=servers[0].port))

    try:
        with phone(servers[0], tiny_tflite, tmp_path) as one:
            receipt = upload_cut(*one.place, one.update, 0.5, kill)
            assert receipt.update == one.update.sha256
        assert len(servers) == 2
    finally:
        for server in servers:
            server.kill()


def test_a_repeated_upload_counts_once(one: Phone) -> None:
    receipt = one.client.upload_update(one.work.run, one.work.round, one.update)
    upload_again(*one.place, one.update, receipt)
    with pytest.raises(FedferError, match="two receipts for one update"):
        upload_again(*one.place, one.update, replace(receipt, num_examples=6))
    sent = one.client.round_result(one.work.run, one.work.round)
    assert sent.num_updates == 1


def test_what_should_not_be_taken_is_refused_with_its_code_and_changes_nothing(
    one: Phone, tmp_path: Path
) -> None:
    codes = [
        refusal_of(*one.place, stale(one.update)),
        refusal_of(*one.place, of_another_model(one.update, one.contract, tmp_path / "other")),
        refusal_of(*one.place, with_nan(one.update, one.contract, tmp_path / "nan")),
    ]
    assert codes == ["wrong_base", "wrong_model", "not_finite"]
    assert one.client.round_result(one.work.run, one.work.round).num_updates == 0
    receipt = one.client.upload_update(one.work.run, one.work.round, one.update)
    assert receipt.update == one.update.sha256


def test_an_update_that_holds_nan_already_is_sent_with_all_faults(one: Phone, tmp_path: Path) -> None:
    """As of an attacker, or of a device whose training diverged: a simulation goes on."""
    hopeless = with_nan(one.update, one.contract, tmp_path / "hopeless")
    codes = [
        refusal_of(*one.place, of_another_model(hopeless, one.contract, tmp_path / "other")),
        refusal_of(*one.place, with_nan(hopeless, one.contract, tmp_path / "nan")),
    ]
    assert codes == ["wrong_model", "not_finite"]


def test_a_server_that_takes_what_it_should_not_is_said(one: Phone) -> None:
    with pytest.raises(FedferError, match="took an update that it should have refused"):
        refusal_of(*one.place, one.update)


def test_a_refusal_before_the_cut_is_a_refusal(one: Phone) -> None:
    one.client.upload_update(one.work.run, one.work.round, one.update)
    later = one.work.round + 40
    with pytest.raises(RefusedError) as caught:
        upload_cut(one.client, one.work.run, later, one.update, 0.5)
    assert caught.value.code == "unknown_round"
