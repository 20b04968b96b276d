"""Well-formed updates that would spoil the model, over HTTP: scaled, turned around, both; with the gates and
strategies that are for them. Among seven phones two are the attacker's (Krum and the median bear as many)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from server_helpers import Phone, serving, wait_for_round

from fedfer.export.checkpoint import Weights, checkpoint_bytes, digest_of, load_checkpoint
from fedfer.export.contract import Contract, read_contract

NUM_HONEST, NUM_HOSTILE = 5, 2


@dataclass
class Round:
    """The first round of a run: the phones, what they start from, and the honest steps."""

    client: httpx.Client
    contract: Contract
    parent: Weights
    phones: list[Phone]
    directory: Path

    def steps(self) -> list[Weights]:
        """The honest phones' steps: mostly the same way, as training on like data gives."""
        rng = np.random.default_rng(0)
        way = {name: 0.01 * rng.standard_normal(w.shape) for name, w in self.parent.items()}
        return [
            {
                name: (step + 0.002 * rng.standard_normal(step.shape)).astype(np.float32)
                for name, step in way.items()
            }
            for _ in range(NUM_HONEST)
        ]

    def moved(self, step: Weights, factor: float) -> bytes:
        """The checkpoint that lies `factor` steps from the parent; variances stay what they are."""
        nonnegative = {w.name for w in self.contract.weights if w.nonnegative}
        weights = {
            name: start
            if name in nonnegative
            else (start + np.float32(factor) * step[name]).astype(np.float32)
            for name, start in self.parent.items()
        }
        return checkpoint_bytes(weights, self.contract)

    def report(self, bodies: list[bytes]) -> dict[str, Any]:
        """The round's record after all phones sent theirs."""
        for phone, body in zip(self.phones, bodies, strict=True):
            reply = self.client.post("/v1/work", json={"run": "attacked"}, headers=phone.headers)
            assert reply.json()["action"] == "train", reply.text
            assert phone.upload(reply.json(), body).status_code == 200
        return wait_for_round(self.client, 1, run="attacked")

    def result(self, record: dict[str, Any]) -> Weights:
        path = self.directory / "result"
        path.write_bytes(self.client.get(f"/v1/weights/{record['result_weights']}").content)
        return load_checkpoint(path, self.contract)


@contextmanager
def attacked(model: Path, directory: Path, settings: str) -> Iterator[Round]:
    """A run with these settings (TOML) and phones that are enrolled."""
    num_clients = NUM_HONEST + NUM_HOSTILE
    file = directory / "run.toml"
    file.write_text(
        f'name = "attacked"\nmodel = "{model}"\nnum_rounds = 1\n'
        f"[rounds]\nnum_clients = {num_clients}\nover_selection = 1.0\n{settings}"
    )
    contract = read_contract(model)
    with serving(model, directory / "data", "--run", str(file)) as server, server.client() as client:
        phones = [Phone(client, f"phone-{i}").enrol() for i in range(num_clients)]
        start = client.get("/v1/runs/attacked/rounds/0").json()["result_weights"]
        path = directory / "parent"
        path.write_bytes(client.get(f"/v1/weights/{start}").content)
        yield Round(client, contract, load_checkpoint(path, contract), phones, directory)


def distance(one: Weights, other: Weights) -> float:
    return float(np.sqrt(sum(np.square(one[name] - other[name]).sum(dtype=np.float64) for name in one)))


@pytest.mark.parametrize("factor", [100.0, -100.0, -5.0, 1e6])
def test_scaled_updates_are_turned_away_by_their_norm(
    tiny_tflite: Path, tmp_path: Path, factor: float
) -> None:
    """What is left is averaged as if they had not come; who was turned away, and why, is told."""
    with attacked(tiny_tflite, tmp_path, "[gates]\nmax_norm_ratio = 3.0\n") as round_:
        steps = round_.steps()
        honest = [round_.moved(step, 1) for step in steps]
        hostile = [round_.moved(step, factor) for step in steps[:NUM_HOSTILE]]
        record = round_.report(honest + hostile)
        codes = {sent["update"]: sent["code"] for sent in record["updates"]}
        assert [codes[digest_of(body)] for body in honest] == [None] * NUM_HONEST
        assert [codes[digest_of(body)] for body in hostile] == ["norm_too_large"] * NUM_HOSTILE
        mean = {name: np.mean([step[name] for step in steps], axis=0) for name in steps[0]}
        expected = load_back(round_.moved(mean, 1), round_)
        assert distance(round_.result(record), expected) < 1e-4 * distance(expected, round_.parent)
        reasons = [sent["reason"] for sent in record["updates"] if sent["code"]]
        assert all("at most 3 times" in reason for reason in reasons)


@pytest.mark.parametrize("strategy", ['name = "coordinate_median"', 'name = "krum"\nnum_byzantine = 2'])
@pytest.mark.parametrize("factor", [-1.0, -100.0])
def test_updates_turned_around_do_not_turn_the_model(
    tiny_tflite: Path, tmp_path: Path, strategy: str, factor: float
) -> None:
    """Of the same length no gate sees them; the robust strategies end up among the honest steps."""
    with attacked(tiny_tflite, tmp_path, f"[strategy]\n{strategy}\n") as round_:
        steps = round_.steps()
        honest = [round_.moved(step, 1) for step in steps]
        hostile = [round_.moved(step, factor) for step in steps[:NUM_HOSTILE]]
        result = round_.result(round_.report(honest + hostile))
        spread = max(distance(load_back(body, round_), load_back(honest[0], round_)) for body in honest)
        assert distance(result, load_back(honest[0], round_)) <= 1.5 * spread


def load_back(body: bytes, round_: Round) -> Weights:
    path = round_.directory / "body"
    path.write_bytes(body)
    return load_checkpoint(path, round_.contract)
