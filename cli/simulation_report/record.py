"""The record of a simulation, as `fedfer simulate` writes it, read with suspicion.

A record may come from anywhere: it is bounded in size, every field has its type and range before anything
is done with it, and text from it is only ever shown. Keys that are not known here are left alone. Bytes are
those of HTTP bodies; `_sec` are virtual seconds since the start unless they say `wall`.
"""

from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, JsonValue, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from fedfer.model.errors import DataError

FORMAT = "fedfer.simulation/1"
RECORD_NAME = "record.json"
MAX_RECORD_BYTES = 256 * 2**20  # 1,000 devices in each of 500 rounds are about 80 MB
MAX_LABELS = 1000
STRICT = ConfigDict(strict=True, allow_inf_nan=False, frozen=True)

Count = Annotated[int, Field(ge=0, le=2**53)]
Seconds = Annotated[float, Field(ge=0, le=1e12)]
Number = Annotated[float, Field(ge=-1e30, le=1e30)]
Share = Annotated[float, Field(ge=0, le=1)]
Claim = Annotated[float, Field(ge=0, le=1e30)]  # a share, if whoever says so is honest
Text = Annotated[str, Field(max_length=2000)]
LongText = Annotated[str, Field(max_length=200_000)]


@dataclass(config=STRICT)
class Model:
    """The model that was trained; `labels` are empty for a regressor."""

    name: Text
    sha256: Text
    contract: Text
    num_bytes: Count
    num_parameters: Count
    checkpoint_bytes: Count
    labels: Annotated[tuple[Text, ...], Field(max_length=MAX_LABELS)]


@dataclass(config=STRICT)
class Stop:
    """Why it ended: a word for programs and some for people."""

    reason: Text | None = None
    text: Text | None = None


@dataclass(config=STRICT)
class Target:
    """When a wanted accuracy was reached: after `round`, at `virtual_sec`, with `bytes` up and down."""

    accuracy: Share
    round: Count
    virtual_sec: Seconds
    bytes: Count


@dataclass(config=STRICT)
class FinalMeasures:
    """The final model on the images that no device holds, as model/measures.py has them."""

    num_examples: Count
    loss: Number
    accuracy: Share
    per_class_recall: tuple[Share | None, ...]
    confusion: tuple[tuple[Count, ...], ...]


@dataclass(config=STRICT)
class Mean:
    """The mean of the last versions: its sha256, the rounds that they are of."""

    weights: Text
    rounds: tuple[Count, ...]
    measures: FinalMeasures | None = None


@dataclass(config=STRICT)
class Final:
    """What came of it: the global weights' sha256, the round they are from."""

    weights: Text
    round: Count
    measures: FinalMeasures | None = None


@dataclass(config=STRICT)
class Device:
    """One device: what it holds, what it is, what it did. `label_counts` has an entry for each label.

    `num_accepted` and `num_rejected` are about uploads: of the accepted ones, gates may turn some away later.
    """

    name: Text
    index: Count
    num_examples: Count
    label_counts: tuple[Count, ...] = ()
    profile: dict[str, JsonValue] = Field(default_factory=dict)
    attack: Text | None = None
    num_tasks: Count = 0
    num_accepted: Count = 0
    num_rejected: Count = 0
    num_dropped: Count = 0
    received_bytes: Count = 0
    sent_bytes: Count = 0
    busy_sec: Seconds = 0.0


@dataclass(config=STRICT)
class Update:
    """What a device sent; `code` says why it was turned away, None if it was not."""

    device: Text
    num_examples: Count
    loss: Number | None = None
    accuracy: Claim | None = None
    train_sec: Seconds | None = None
    code: Text | None = None


@dataclass(config=STRICT)
class Round:
    """One round, 0 for the initial model; `loss` and `accuracy` are its version's, on the held-out images."""

    round: Count
    opened_sec: Seconds
    closed_sec: Seconds
    wall_sec: Seconds | None = None
    outcome: Text | None = None
    reason: Text | None = None
    loss: Number | None = None
    accuracy: Share | None = None
    train_loss: Number | None = None
    train_accuracy: Claim | None = None
    bytes_up: Count = 0
    bytes_down: Count = 0
    updates: tuple[Update, ...] = ()


@dataclass(config=STRICT)
class Fault:
    """Something that was made to go wrong, with a device or, where that is None, with the aggregator."""

    at_sec: Seconds
    kind: Text
    text: Text
    device: Text | None = None


@dataclass(config=STRICT)
class Record:
    """A whole simulation."""

    format: Text
    name: Text
    title: Text
    scenario: dict[str, JsonValue]
    toml: LongText
    command: Text
    fedfer_version: Text
    runtime: Text
    engine: Text
    num_processes: Count
    seed: int
    started_at: Text
    wall_sec: Seconds
    virtual_sec: Seconds
    model: Model
    stop: Stop
    final: Final
    devices: tuple[Device, ...]
    rounds: tuple[Round, ...]
    target: Target | None = None
    mean: Mean | None = None
    refusals: dict[Text, Count] = Field(default_factory=dict)
    faults: tuple[Fault, ...] = ()


@dataclass
class _Head:
    format: JsonValue = None


_HEAD = TypeAdapter(_Head)
_ADAPTER: TypeAdapter[Record] = TypeAdapter(Record)


def read_record(path: Path) -> Record:
    """The record in a file, or in `record.json` of a folder. Raises DataError."""
    path = path / RECORD_NAME if path.is_dir() else path
    try:
        with path.open("rb") as file:
            data = file.read(MAX_RECORD_BYTES + 1)
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror}; expected a record of fedfer simulate, or its folder"
        ) from None
    if len(data) > MAX_RECORD_BYTES:
        raise DataError(f"{path} is larger than {MAX_RECORD_BYTES} bytes; expected a record of a simulation")
    return parse_record(data, str(path))


def parse_record(data: bytes, owner: str) -> Record:
    """A record from the bytes of `owner`, which errors name. Raises DataError."""
    _check_format(data, owner)
    try:
        record = _ADAPTER.validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"][-6:])
        raise DataError(f"{owner} is no sound record: {_plain(where)}: {_plain(first['msg'])}") from None
    for problem in _problems(record):
        raise DataError(f"{owner} is no sound record: {_plain(problem)}")
    return record


def _check_format(data: bytes, owner: str) -> None:
    """Before anything else, so that a file of another kind or version is called that."""
    try:
        found = _HEAD.validate_json(data).format
        came = "JSON without it" if found is None else ascii(found)[:60]
    except ValidationError as error:
        is_json = error.errors(include_url=False, include_input=False)[0]["type"] != "json_invalid"
        found, came = None, "JSON without it" if is_json else "no JSON"
    if found != FORMAT:
        raise DataError(
            f"{owner} is not a record of fedfer simulate: expected JSON of format {FORMAT}; received {came}"
        )


def _problems(record: Record) -> list[str]:
    """What types cannot say: lists that belong together, rounds in order."""
    num_labels = len(record.model.labels)
    found = []
    numbers = [each.round for each in record.rounds]
    if numbers != sorted(set(numbers)):
        found.append("rounds: expected each once, in order")
    if len({device.name for device in record.devices}) < len(record.devices):
        found.append("devices: expected each name once")
    for device in record.devices:
        if len(device.label_counts) not in (0, num_labels):
            found.append(f"label_counts of {device.name}: expected {num_labels}, one for each label")
    of_mean = None if record.mean is None else record.mean.measures
    for name, measures in (("final", record.final.measures), ("mean", of_mean)):
        if measures is None:
            continue
        sizes = {len(measures.confusion), len(measures.per_class_recall), *map(len, measures.confusion)}
        if sizes - {0, num_labels}:
            found.append(f"{name}.measures: expected recall and confusion of {num_labels} labels")
    return found


def _plain(text: str) -> str:
    """Text from a file for one line of a terminal."""
    return "".join(char if char.isprintable() else " " for char in text)[:300]
