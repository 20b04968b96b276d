"""What a run learns by: strategies and their state, gates, plateau, versions, buffers, with real files."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from run_helpers import Party, Phone, one_class, party, rounds_of
from server_helpers import plain_mean, synthetic_update, synthetic_weights
from waiting import wait_for

from fedfer.aggregator.config import HoldoutSource, RoundSettings, RunSettings
from fedfer.aggregator.gates import GateSettings
from fedfer.aggregator.metrics import Metrics
from fedfer.aggregator.retention import RetentionSettings
from fedfer.aggregator.round_store import RoundStore
from fedfer.aggregator.stopping import StoppingSettings
from fedfer.aggregator.watching import health_of, sample_of
from fedfer.export.checkpoint import checkpoint_bytes, digest_of, load_checkpoint
from fedfer.export.contract import Contract, read_contract
from fedfer.model.errors import CheckpointError, RefusedError, StoreError, UsageError
from fedfer.model.sources import load_images

HOLDOUT = HoldoutSource("drawn", take=1)  # one image: a model that says its label is right always, or never


@pytest.fixture(scope="module")
def contract(tiny_tflite: Path) -> Contract:
    return read_contract(tiny_tflite)


@pytest.fixture(scope="module")
def label() -> int:
    """The label of the one holdout image."""
    return int(load_images("drawn", take=1).labels[0])


@pytest.fixture
def start(tmp_path: Path, contract: Contract, label: int) -> Path:
    """Initial weights that are right about the holdout image."""
    path = tmp_path / "start.safetensors"
    path.write_bytes(one_class(contract, label))
    return path


@pytest.fixture
def random_start(tmp_path: Path, contract: Contract) -> Path:
    path = tmp_path / "random.safetensors"
    path.write_bytes(synthetic_update(contract, 1000))
    return path


def refused(code: str) -> pytest.RaisesExc[RefusedError]:
    return pytest.raises(RefusedError, check=lambda error: error.code == code)


def bodies(contract: Contract, number: int, count: int = 2) -> list[bytes]:
    return [synthetic_update(contract, 10 * number + i) for i in range(count)]


STRATEGY = {"name": "fedadam", "server_learning_rate": 0.1}
ADAM = RunSettings(rounds=rounds_of(2), num_rounds=9, strategy=STRATEGY)


@pytest.fixture(scope="module")
def undisturbed(tiny_tflite: Path, tmp_path_factory: pytest.TempPathFactory, contract: Contract) -> list[str]:
    """What three rounds of FedAdam end with, from seed 1000."""
    directory = tmp_path_factory.mktemp("undisturbed")
    start = directory / "start.safetensors"
    start.write_bytes(synthetic_update(contract, 1000))
    with party(tiny_tflite, directory / "data", ADAM, start) as there:
        phones = there.phones("a", "b")
        return [there.round_trip(phones, bodies(contract, number)) for number in (1, 2, 3)]


def test_the_state_of_a_strategy_survives_restarts(
    tiny_tflite: Path, tmp_path: Path, contract: Contract, random_start: Path, undisturbed: list[str]
) -> None:
    results = []
    for number in (1, 2, 3):
        with party(tiny_tflite, tmp_path / "data", ADAM, random_start) as there:
            results.append(there.round_trip(there.phones("a", "b")[::-1], bodies(contract, number)))
    assert results == undisturbed
    assert len(set(results)) == 3


def test_rolling_back_restores_weights_and_state(
    tiny_tflite: Path, tmp_path: Path, contract: Contract, random_start: Path, undisturbed: list[str]
) -> None:
    """Rounds 1 and 2, another round 3, back to 2 in the middle of round 4: round 5 is undisturbed round 3."""
    with party(tiny_tflite, tmp_path / "data", ADAM, random_start) as there:
        phones = there.phones("a", "b")
        for number in (1, 2):
            there.round_trip(phones, bodies(contract, number))
        wrong = there.round_trip(phones, bodies(contract, 7))
        late = phones[0].work()
        phones[1].send(phones[1].work(), synthetic_update(contract, 8))
        there.run.versions.tag("good", undisturbed[1])
        there.run.roll_back("good")
        assert (there.run.round_.number, there.run.newest_weights) == (5, undisturbed[1])
        with refused("round_over"):
            phones[0].send(late, synthetic_update(contract, 9))
        assert there.round_trip(phones, bodies(contract, 3)) == undisturbed[2]
        versions = there.run.versions.all()
        assert [(v.round, v.parent_round) for v in versions] == [(0, None), (1, 0), (2, 1), (3, 2), (5, 2)]
        assert versions[3].weights == wrong
        rows = there.run.rounds.rows()
        assert [row["outcome"] for row in rows] == ["committed"] * 4 + ["abandoned", "committed", None]
        same = there.run.versions.compare("2", "good", contract)
        assert (same.weights_distance, same.statistics_distance) == (0.0, 0.0)
        apart = there.run.versions.compare("1", "2", contract)
        assert apart.weights_distance == pytest.approx(distance(there, contract, "1", "2"), rel=1e-6)
        for name in ("7", "bad", "0" * 64):
            with refused("unknown_version"):
                there.run.roll_back(name)


def distance(there: Party, contract: Contract, a: str, b: str) -> float:
    first, second = (
        load_checkpoint(there.run.blobs.version_path(there.run.versions.find(name).weights), contract)
        for name in (a, b)
    )
    trained = [w.name for w in contract.weights if w.role == "trainable"]
    return float(np.sqrt(sum(np.square(first[n].astype(float) - second[n]).sum() for n in trained)))


def test_multi_krum_goes_on_with_what_gates_leave(
    tiny_tflite: Path, tmp_path: Path, contract: Contract, random_start: Path
) -> None:
    """f = 1 needs five updates and has them; the four that a gate leaves bear f = 0: two of them (n - f - 2),
    those that lie closest together, are averaged."""
    gates, strategy = GateSettings(max_norm_ratio=3.0), {"name": "multi_krum", "num_byzantine": 1}
    settings = RunSettings(rounds=rounds_of(5), gates=gates, strategy=strategy)
    one, scaled = synthetic_weights(contract, 1), synthetic_weights(contract, 4)
    near = {name: tensor + np.float32(1e-3) for name, tensor in one.items()}
    sent = [one, near, synthetic_weights(contract, 2), synthetic_weights(contract, 3)]
    sent.append({name: 100 * tensor for name, tensor in scaled.items()})
    with party(tiny_tflite, tmp_path / "data", settings, random_start) as there:
        phones = there.phones("a", "b", "c", "d", "attacker")
        result = there.round_trip(phones, [checkpoint_bytes(weights, contract) for weights in sent])
        row = there.run.rounds.rows(1)[0]
        assert (row["outcome"], row["result_weights"]) == ("committed", result)
        made = load_checkpoint(there.run.blobs.version_path(result), contract)
    for spec in contract.weights:
        if spec.role == "trainable":
            np.testing.assert_allclose(made[spec.name], one[spec.name] + 5e-4, atol=1e-6)


def test_an_update_that_is_too_long_is_turned_away(
    tiny_tflite: Path, tmp_path: Path, contract: Contract, random_start: Path
) -> None:
    settings = RunSettings(rounds=rounds_of(4), gates=GateSettings(max_norm_ratio=3.0))
    scaled = {name: 100 * tensor for name, tensor in synthetic_weights(contract, 4).items()}
    counted, metrics = 'fedfer_updates_turned_away_total{code="norm_too_large",run="default"} 1.0', Metrics()
    with party(tiny_tflite, tmp_path / "data", settings, random_start, metrics) as there:
        phones = there.phones("a", "b", "c", "attacker")
        sent = [synthetic_update(contract, seed) for seed in (1, 2, 3)]
        result = there.round_trip(phones, [*sent, checkpoint_bytes(scaled, contract)])
        assert result == digest_of(plain_mean(contract, [(1, 5), (2, 5), (3, 5)]))
        assert phones[0].work().rejected is None
        told = phones[3].work().rejected
        assert told is not None
        assert (told[0], told[1].code) == (1, "norm_too_large")
        rows = {row["device_name"]: row["code"] for row in there.run.rounds.rows(1)[0]["updates"]}
        assert rows == {"a": None, "b": None, "c": None, "attacker": "norm_too_large"}
        wait_for(lambda: counted in metrics.page().decode())
    with party(tiny_tflite, tmp_path / "data", settings) as there:
        phones[3].run = there.run
        assert phones[3].work().rejected == told


def test_a_candidate_that_is_worse_is_not_committed(
    tiny_tflite: Path, tmp_path: Path, contract: Contract, start: Path, label: int
) -> None:
    """Right, then wrong: the next round starts from what was right, and a good candidate is taken."""
    gates = GateSettings(max_candidate_drop=0.5)
    settings = RunSettings(rounds=rounds_of(1), holdout=HOLDOUT, gates=gates, num_rounds=9)
    right, wrong = start.read_bytes(), one_class(contract, (label + 1) % 7)
    with party(tiny_tflite, tmp_path / "data", settings, start) as there:
        (phone,) = there.phones("a")
        assert there.round_trip([phone], [wrong]) == digest_of(right)
        row = there.run.rounds.rows(1)[0]
        assert (row["outcome"], row["candidate_weights"]) == ("rolled_back", digest_of(wrong))
        assert (row["holdout_accuracy"], "0.000" in row["reason"]) == (0.0, True)
        work = phone.work()
        assert (work.round_.number, work.round_.base.weights) == (2, digest_of(right))
        assert not there.run.versions.has(digest_of(wrong))
        assert [version.round for version in there.run.versions.all()] == [0]
        assert files(tmp_path / "data") == {f"{digest_of(right)}.safetensors"}


def files(data_dir: Path) -> set[str]:
    """Names of the versions and states on disk."""
    return {path.name for kind in ("versions", "states") for path in (data_dir / kind).iterdir()}


def test_a_candidate_that_is_turned_down_leaves_neither_weights_nor_state(
    tiny_tflite: Path, tmp_path: Path, contract: Contract, start: Path, label: int
) -> None:
    """A step that makes the model wrong, then one that leaves it as it is: the file of the latter stays."""
    gates, right = GateSettings(max_candidate_drop=0.5), start.read_bytes()
    strategy = {"name": "fedavgm", "momentum": 0.5}
    settings = RunSettings(rounds=rounds_of(1), holdout=HOLDOUT, gates=gates, num_rounds=9, strategy=strategy)
    with party(tiny_tflite, tmp_path / "data", settings, start) as there:
        (phone,) = there.phones("a")
        there.round_trip([phone], [one_class(contract, (label + 1) % 7)])
        assert there.run.rounds.rows(1)[0]["outcome"] == "rolled_back"
        assert files(tmp_path / "data") == {f"{digest_of(right)}.safetensors"}
        there.round_trip([phone], [right])
        (_, kept) = there.run.versions.all()
        assert (kept.round, kept.weights) == (2, digest_of(right))
        assert kept.state is not None
        assert files(tmp_path / "data") == {f"{digest_of(right)}.safetensors", kept.state}


def test_updates_that_make_the_model_worse_leave_nothing_to_average(
    tiny_tflite: Path, tmp_path: Path, contract: Contract, start: Path, label: int
) -> None:
    settings = RunSettings(rounds=rounds_of(1), holdout=HOLDOUT, gates=GateSettings(max_update_drop=0.5))
    with party(tiny_tflite, tmp_path / "data", settings, start) as there:
        (phone,) = there.phones("a")
        there.round_trip([phone], [one_class(contract, (label + 1) % 7)])
        row = there.run.rounds.rows(1)[0]
        assert (row["outcome"], row["updates"][0]["code"]) == ("no_updates", "holdout_drop")
        assert row["result_weights"] == row["base_weights"]
        assert there.run.rounds.num_rejected() == 1


def test_a_run_stops_at_its_plateau_and_gives_its_best_version(
    tiny_tflite: Path, tmp_path: Path, contract: Contract, start: Path, label: int
) -> None:
    settings = RunSettings(
        rounds=rounds_of(1, over_selection=2.0),
        holdout=HOLDOUT,
        stopping=StoppingSettings(patience=2),
        num_rounds=9,
    )
    with party(tiny_tflite, tmp_path / "data", settings, start) as there:
        phone, late = there.phones("a", "late")
        there.round_trip([phone], [one_class(contract, (label + 1) % 7)])
        work = late.work()
        assert there.round_trip([phone], [one_class(contract, (label + 2) % 7)]) != digest_of(
            start.read_bytes()
        )
        assert (there.run.state, there.run.round_.number) == ("finished", 2)
        assert there.run.end is not None
        assert "has not improved in 2 rounds" in there.run.end.text
        assert there.run.result_weights == digest_of(start.read_bytes())
        assert phone.work().final_weights == there.run.result_weights
        with pytest.raises(RefusedError, match="has not improved in 2 rounds") as caught:
            late.send(work, synthetic_update(contract, 1))
        assert (caught.value.code, caught.value.status) == ("training_over", 409)
    with party(tiny_tflite, tmp_path / "data", settings) as there:
        assert there.run.is_over
        assert there.run.result_weights == digest_of(start.read_bytes())
        there.run.roll_back("1")
        assert (there.run.state, there.run.round_.number) == ("running", 3)


ASYNC = RunSettings(rounds=rounds_of(2, mode="async", max_staleness=1), num_rounds=9)


@pytest.fixture
def buffered(tiny_tflite: Path, tmp_path: Path, random_start: Path) -> Iterator[Party]:
    with party(tiny_tflite, tmp_path / "data", ASYNC, random_start) as there:
        yield there


def test_a_late_update_counts_less_in_the_next_buffer(buffered: Party, contract: Contract) -> None:
    """x1 + (n d_b + n s (x_l - x0)) / 2n with s = 1/sqrt(2): Nguyen et al. 2022, Algorithm 1, section 5."""
    a, b, late = buffered.phones("a", "b", "late")
    slow = late.work()
    first = buffered.round_trip([a, b], bodies(contract, 1))
    late.send(slow, synthetic_update(contract, 30))
    b.send(b.work(), synthetic_update(contract, 31))
    buffered.wait_for_end_of(2)
    result = buffered.run.rounds.rows(2)[0]
    assert [(sent["device_name"], sent["work_round"]) for sent in result["updates"]] == [
        ("late", 1),
        ("b", 2),
    ]
    assert result["base_weights"] == first
    expected = by_hand(contract)
    found = load_checkpoint(buffered.run.blobs.version_path(result["result_weights"]), contract)
    for weight in contract.weights:
        assert np.allclose(found[weight.name], expected[weight.name], rtol=1e-5, atol=1e-6), weight.name


def by_hand(contract: Contract) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    zero, one, two, late, fresh = (synthetic_weights(contract, seed) for seed in (1000, 10, 11, 30, 31))
    damped, expected = 1 / np.sqrt(2), {}
    for weight in contract.weights:
        name = weight.name
        parent = (one[name].astype(float) + two[name]) / 2
        if weight.role == "statistic":
            stale = (1 - damped) * parent + damped * late[name]
        else:
            stale = parent + damped * (late[name].astype(float) - zero[name])
        expected[name] = (stale + fresh[name]) / 2
    return expected


def test_so_many_devices_train_at_a_time_also_after_a_restart(
    tiny_tflite: Path, tmp_path: Path, random_start: Path, contract: Contract
) -> None:
    """Three may; of a, b and late two report, and late has work of the buffer before when c and d come."""
    settings = replace(ASYNC, rounds=replace(ASYNC.rounds, max_training=3))
    with party(tiny_tflite, tmp_path / "data", settings, random_start) as there:
        a, b, c, d, late = there.phones("a", "b", "c", "d", "late")
        slow = late.work()
        there.round_trip([a, b], bodies(contract, 1))
        assert there.run.round_.busy == {late.device.id: 1}
        assert [phone.work().wait_reason for phone in (a, b, c)] == [None, None, "round_full"]
        before = there.run.round_
    with party(tiny_tflite, tmp_path / "data", settings) as there:
        assert replace(there.run.round_, deadline_at=before.deadline_at) == before
        for phone in (a, b, c, d, late):
            phone.run = there.run
        assert c.work().wait_reason == "round_full"
        late.send(slow, synthetic_update(contract, 30))
        assert [phone.work().wait_reason for phone in (c, d)] == [None, "round_full"]


def test_what_is_too_stale_is_refused(buffered: Party, contract: Contract) -> None:
    a, b, late = buffered.phones("a", "b", "late")
    slow = late.work()
    for number in (1, 2):
        buffered.round_trip([a, b], bodies(contract, number))
    with refused("too_stale"):
        late.send(slow, synthetic_update(contract, 30))
    assert late.work().round_.number == 3


def test_the_order_of_arrival_does_not_matter_to_a_buffer(
    tiny_tflite: Path, tmp_path: Path, random_start: Path, contract: Contract
) -> None:
    results = []
    for turn in (1, -1):
        with party(tiny_tflite, tmp_path / f"data{turn}", ASYNC, random_start) as there:
            phones = there.phones("a", "b", "late")
            slow = phones[2].work()
            there.round_trip(phones[:2], bodies(contract, 1))
            sends = [(phones[2], slow, 30), (phones[1], phones[1].work(), 31)][::turn]
            for phone, work, seed in sends:
                phone.send(work, synthetic_update(contract, seed))
            there.wait_for_end_of(2)
            results.append(there.run.rounds.rows(2)[0]["result_weights"])
    assert results[0] == results[1]


def test_old_versions_are_deleted_by_rule(
    tiny_tflite: Path, tmp_path: Path, contract: Contract, random_start: Path
) -> None:
    settings = replace(ADAM, rounds=rounds_of(1), retention=RetentionSettings(keep_last=2, keep_every=4))
    with party(tiny_tflite, tmp_path / "data", settings, random_start) as there:
        (phone,) = there.phones("a")
        results = [there.round_trip([phone], bodies(contract, 1, 1))]
        there.run.versions.tag("keep", "1")
        results.append(there.round_trip([phone], bodies(contract, 2, 1)))
        with there.service.open_file("weights", results[1]) as download:
            results += [there.round_trip([phone], bodies(contract, n, 1)) for n in range(3, 8)]
            there.run.drop_versions()
            assert digest_of(download.read()) == results[1]
        kept = [version for version in there.run.versions.all() if version.is_kept]
        assert [version.round for version in kept] == [0, 1, 4, 6, 7]
        files = {path.stem for path in (tmp_path / "data" / "versions").iterdir()}
        assert files == {version.weights for version in kept}
        states = {path.name for path in (tmp_path / "data" / "states").iterdir()}
        assert states == {version.state for version in kept if version.state}
        with refused("unknown_version"):
            there.run.roll_back("2")
        with refused("unknown_weights"):
            there.service.open_file("weights", results[1])


def test_a_round_too_small_for_its_strategy_is_refused(tiny_tflite: Path, tmp_path: Path) -> None:
    settings = RunSettings(rounds=rounds_of(2), strategy={"name": "krum", "num_byzantine": 1})
    with pytest.raises(UsageError, match="clients is 2; strategy krum needs at least"):
        party(tiny_tflite, tmp_path / "data", settings).__enter__()


def test_the_same_devices_are_drawn_whoever_asks_first(
    tiny_tflite: Path, tmp_path: Path, random_start: Path
) -> None:
    settings = RunSettings(rounds=rounds_of(2, min_devices=5), seed=3)
    drawn = []
    for turn in (1, -1):
        with party(tiny_tflite, tmp_path / f"data{turn}", settings, random_start) as there:
            names = [f"phone-{i}" for i in range(5)][::turn]
            early = there.phones(*names[:4])
            assert {phone.work().wait_reason for phone in early} == {"too_few_devices"}
            phones = [*early, *there.phones(*names[4:])]
            answers = {phone.device.name: phone.work().wait_reason for phone in phones}
            drawn.append({name for name, reason in answers.items() if reason is None})
            assert set(answers.values()) <= {None, "not_selected", "round_full"}
            assert len(drawn[-1]) == 2
    assert drawn[0] == drawn[1]


def test_who_asks_while_an_update_is_made_durable_gets_a_place_with_the_others(
    tiny_tflite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight ask at once for six places: one transaction. One that fails is told to whoever asked; what it
    would have given is there for those who come next."""
    with party(tiny_tflite, tmp_path, RunSettings(rounds_of(6))) as there, ThreadPoolExecutor(8) as pool:
        phones, given = there.phones(*"abcdefgh"), list[list[str]]()
        take_places = RoundStore.take_places

        def take(store: RoundStore, number: int, device_ids: Sequence[str]) -> None:
            if not given:
                given.append([])
                raise StoreError("cannot assign places: disk full")
            given.append(list(device_ids))
            take_places(store, number, device_ids)

        monkeypatch.setattr(RoundStore, "take_places", take)
        with there.run.changed:
            asking = [pool.submit(phone.work) for phone in phones]
            wait_for(lambda: len(there.run._asks) == len(phones))
        failed = [asked for asked in asking if asked.exception() is not None]
        assert [str(asked.exception()) for asked in failed] == ["cannot assign places: disk full"]
        answers = [asked.result() for asked in asking if asked not in failed]
        assert len(given) == 2
        assert sum(work.wait_reason is None for work in answers) == len(given[1])
        assert set(given[1]) == there.run.round_.assigned
        assert there.run._asks == []
        assert [phone.work().wait_reason for phone in phones].count(None) == 6


@pytest.mark.parametrize("lost", ["give_out", "take_places", "add_update", "finish"])
@pytest.mark.parametrize("is_durable", [True, False])
def test_an_answer_of_the_database_that_is_lost(
    tiny_tflite: Path,
    tmp_path: Path,
    contract: Contract,
    monkeypatch: pytest.MonkeyPatch,
    lost: str,
    is_durable: bool,
) -> None:
    """Whether the transaction was made durable or not: whoever tries again gets on, once each, to the result
    of a run that was left alone."""
    original, is_lost = getattr(RoundStore, lost), False

    def write(store: RoundStore, *args: object) -> None:
        nonlocal is_lost
        if is_lost or is_durable:
            original(store, *args)
        if not is_lost:
            is_lost = True
            raise StoreError("cannot write: PostgreSQL has not answered")

    monkeypatch.setattr(RoundStore, lost, write)
    with party(tiny_tflite, tmp_path, RunSettings(rounds_of(2), num_rounds=2)) as there:
        phones = there.phones("a", "b")

        def again(phone: Phone, number: int) -> None:
            body = synthetic_update(contract, number)
            for _ in range(3):
                with suppress(StoreError):
                    phone.send(phone.work(), body)
                    return
            pytest.fail("refused three times")

        for number, phone in enumerate(phones):
            again(phone, number)
        there.wait_for_end_of(1)
        (row,) = there.run.rounds.rows(1)
        assert is_lost
        assert [sent["device_name"] for sent in row["updates"]] == ["a", "b"]
        assert row["result_weights"] == digest_of(plain_mean(contract, [(0, 5), (1, 5)]))
        assert there.run.round_.number == 2
        assert there.run.newest_weights == row["result_weights"]
        assert phones[0].work().round_.number == 2


def test_the_best_version_stays_without_stopping_too(
    tiny_tflite: Path, tmp_path: Path, contract: Contract, label: int, start: Path
) -> None:
    settings = RunSettings(rounds_of(1), num_rounds=9, holdout=HOLDOUT, retention=RetentionSettings(1))
    with party(tiny_tflite, tmp_path / "data", settings, start) as there:
        (phone,) = there.phones("a")
        for number in range(3):
            there.round_trip([phone], [one_class(contract, (label + 1 + number) % 7)])
        kept = [True, False, False, True]
        wait_for(lambda: [version.is_kept for version in there.run.versions.all()] == kept)
        best = there.run.versions.all()[0].weights
        assert there.run.best_weights == best
        assert there.run.blobs.version_path(best).is_file()


def test_rounds_that_lead_nowhere_reach_the_plateau(
    tiny_tflite: Path, tmp_path: Path, contract: Contract, label: int, start: Path
) -> None:
    """Every candidate is worse than the version that they all start from, and is not committed."""
    gates, stopping = GateSettings(max_candidate_drop=0.0), StoppingSettings("accuracy", patience=2)
    settings = RunSettings(rounds_of(1), num_rounds=6, holdout=HOLDOUT, gates=gates, stopping=stopping)
    metrics = Metrics()
    with party(tiny_tflite, tmp_path / "data", settings, start, metrics) as there:
        (phone,) = there.phones("a")
        for _ in range(2):
            there.round_trip([phone], [one_class(contract, (label + 1) % 7)])
        assert [row["outcome"] for row in there.run.rounds.rows()[1:]] == ["rolled_back"] * 2
        assert there.run.end is not None
        assert there.run.end.reason == "plateau"
        assert "in 2 rounds; the best is round 0's" in there.run.end.text
        assert phone.work().final_weights == there.run.versions.all()[0].weights
        wait_for(lambda: b'closed_total{outcome="rolled_back",run="default"} 2' in metrics.page())
        (sample,) = sample_of(there.service, health_of(there.service)).runs
        assert sample.holdout_accuracy == 1.0


def test_a_device_hears_of_its_rejection_however_late_it_asks(
    tiny_tflite: Path, tmp_path: Path, contract: Contract
) -> None:
    """After further rounds and a restart, until an update of its own counts."""
    rounds = RoundSettings(3, over_selection=4 / 3)
    settings = RunSettings(rounds, num_rounds=9, gates=GateSettings(max_norm_ratio=9.0))
    far = checkpoint_bytes({n: w + 500 for n, w in synthetic_weights(contract, 9).items()}, contract)
    near = [synthetic_update(contract, number) for number in range(4)]
    with party(tiny_tflite, tmp_path, settings) as there:
        a, b, liar, d = there.phones("a", "b", "liar", "d")
        there.round_trip([a, b, liar], [near[0], near[1], far])
        there.round_trip([a, b, d], near[:2] + near[3:])
    with party(tiny_tflite, tmp_path, settings) as there:
        a, b, liar, d = (Phone(there.run, phone.device) for phone in (a, b, liar, d))
        told = liar.work().rejected
        assert told is not None
        assert (told[0], told[1].code) == (1, "norm_too_large")
        assert a.work().rejected is None
        there.round_trip([a, b, liar], near[:3])
        assert liar.work().rejected is None


def test_another_server_optimizer_is_refused_before_a_round_of_it(
    tiny_tflite: Path, tmp_path: Path, contract: Contract
) -> None:
    adam, yogi, mean = ({"name": name} for name in ("fedadam", "fedyogi", "fedavg"))

    def settings(strategy: dict[str, str]) -> RunSettings:
        return RunSettings(rounds_of(1), num_rounds=9, strategy=strategy)

    with party(tiny_tflite, tmp_path, settings(adam)) as there:
        (phone,) = there.phones("a")
        there.round_trip([phone], [synthetic_update(contract, 1)])
    with (
        pytest.raises(CheckpointError, match="not the state of fedyogi"),
        party(tiny_tflite, tmp_path, settings(yogi)),
    ):
        pass
    for strategy in (adam, mean):
        with party(tiny_tflite, tmp_path, settings(strategy)) as there:
            there.round_trip([Phone(there.run, phone.device)], [synthetic_update(contract, 2)])
