"""Scenarios: a federated training with its fleet as one TOML file that a person can read.

    name = "mnist-iid"
    target_accuracy = 0.99              # ends the simulation as soon as the holdout set says so
    [model]
    source = "fedfer.model.mnist:fedavg_cnn"    # what `fedfer export` takes; or path = "model.tflite"
    options = {learning-rate = 0.1}             # options of `fedfer export`, without the dashes
    [data]                              # what the devices hold; [holdout]: what the server measures on
    source = "drawn"
    take = 600
    [partition]
    scheme = "iid"
    num_devices = 100
    [run]                               # as a run file of `fedfer serve`, without name, model and holdout
    num_rounds = 20
    [run.rounds]
    num_clients = 10
    [server.pace]                       # pace steering; [server] also has active_sec
    [[profiles]]                        # who the devices are: `profile_settings`; or profiles = "NAME"
    [attack]                            # what goes wrong: `attacks`, `faults`
    [faults]

Other keys are refused by name. Reading a scenario touches nothing but its file.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fedfer.model.errors import UsageError
from fedfer.model.partition_settings import PartitionSettings
from fedfer.model.sources import DRAWN, MNIST
from fedfer.model.strict_settings import from_mapping, shown

MAX_FILE_BYTES = 1 << 20
DEFAULT_DEVICES, MAX_DEVICES = 10, 100_000
MAX_NAME_CHARS = 64
MAX_ACTIVE_SEC = 1e9
SCENARIOS = Path(__file__).parent / "scenarios"
IID = PartitionSettings("iid")
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class ModelSource:
    """`source`: what `fedfer export` takes, with its `options`; or `path`, a `.tflite` made before. Devices
    that have less than `memory_mb` (10^6 bytes), what a task takes at its peak, never take part."""

    source: str | None = None
    path: str | None = None
    memory_mb: float = 0.0

    def __post_init__(self) -> None:
        if self.source is not None and self.path is not None:
            raise UsageError("model: expected source or path; received both")


@dataclass(frozen=True)
class DataSource:
    """Images by `fedfer.model.sources.load_images`; `source` None has to be given on the command line."""

    source: str | None = None
    skip: int = 0
    take: int | None = None
    seed: int = 0
    usage: str | None = None


@dataclass(frozen=True)
class ServerSettings:
    """`active_sec`: a device silent for longer is not counted on; `pace`: settings of pace steering."""

    active_sec: float = 3600.0
    pace: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)

    def __post_init__(self) -> None:
        """Raises UsageError."""
        if not 0 < self.active_sec <= MAX_ACTIVE_SEC:
            raise UsageError(
                f"server: active_sec is {self.active_sec:g}; expected above 0 to {MAX_ACTIVE_SEC:g}"
            )


@dataclass(frozen=True)
class Scenario:
    """A scenario as it stands in its file; `run`, `profiles`, `attack` and `faults` are plain data that who
    uses them checks. Paths are relative to `folder`. `num_devices` 0: as many as a column has users."""

    name: str
    title: str = ""
    seed: int = 0
    target_accuracy: float | None = None
    model: ModelSource = ModelSource()
    model_options: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    data: DataSource = DataSource()
    holdout: DataSource | None = None
    num_devices: int = DEFAULT_DEVICES
    partition: PartitionSettings = IID
    run: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    server: ServerSettings = ServerSettings()
    profiles: str | Mapping[str, Any] | Sequence[Mapping[str, Any]] = ()
    trace: str | None = None
    attack: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    faults: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    toml: str = ""
    folder: Path = Path()

    def __post_init__(self) -> None:
        """Raises UsageError."""
        fits = self.name.isprintable() and 1 <= len(self.name) <= MAX_NAME_CHARS
        if not fits or "/" in self.name or self.name in (".", ".."):  # results go to a folder of this name
            raise UsageError(
                f"name is {shown(self.name)}; expected that of a folder, 1 to {MAX_NAME_CHARS} characters"
            )
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"seed is {self.seed}; expected 0 to 2**63 - 1")
        least = 0 if self.partition.scheme == "column" else 1
        if not least <= self.num_devices <= MAX_DEVICES:
            raise UsageError(f"partition: num_devices is {self.num_devices}; expected 1 to {MAX_DEVICES}")
        if self.model.path is not None and self.model_options:
            raise UsageError(
                "model: options are of an export, and path names a file that is exported already"
            )
        target = self.target_accuracy
        if target is not None and not 0 < target <= 1:
            raise UsageError(f"target_accuracy is {target}; expected a number above 0, at most 1")
        if target is not None and self.holdout is None:
            raise UsageError("target_accuracy needs a [holdout] to measure on")

    def as_json(self) -> dict[str, Any]:
        """All settings, defaults included, as JSON can hold them; without the text and the folder."""
        elsewhere = ("toml", "folder", "model_options", "num_devices")
        plain = {key: value for key, value in vars(self).items() if key not in elsewhere}
        for key in ("model", "data", "partition"):
            plain[key] = asdict(plain[key])
        plain["partition"]["num_devices"] = self.num_devices
        plain["model"]["options"] = dict(self.model_options)
        plain["holdout"] = None if self.holdout is None else asdict(self.holdout)
        plain["server"] = {"active_sec": self.server.active_sec, "pace": dict(self.server.pace)}
        found: dict[str, Any] = json.loads(json.dumps(plain, default=_plain))
        return found


_TABLES: dict[str, type[Any]] = {
    "data": DataSource,
    "holdout": DataSource,
}
_COUNT = ("num_devices",)
_FREE = ("run", "attack", "faults")
_SCALARS = ("name", "title", "seed", "target_accuracy", "trace")


def resolved(source: str, folder: Path) -> str:
    """A source of images whose path, if it has one, is relative to `folder`."""
    if source == DRAWN:
        return source
    prefix = MNIST if source.startswith(MNIST) else ""
    return f"{prefix}{folder / source.removeprefix(prefix)}"


def packaged() -> list[str]:
    """Names of the scenarios that come with fedfer."""
    return sorted(path.stem for path in SCENARIOS.glob("*.toml"))


def load_scenario(name: str, changes: Sequence[str] = ()) -> Scenario:
    """The scenario in the file `name`, or that of the package with this name, with `changes` such as
    `run.rounds.num_clients=5` (a dotted key and a value as TOML writes it). Raises UsageError."""
    path = SCENARIOS / f"{name}.toml" if name in packaged() else Path(name)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UsageError(f"{path} has more than {MAX_FILE_BYTES} bytes; expected a scenario")
        text = path.read_text(encoding="utf-8")
        body = tomllib.loads(text)
    except OSError as error:
        known = ", ".join(packaged())
        raise UsageError(
            f"cannot read scenario {shown(name)}: {error.strerror}; expected a TOML file or one of {known}"
        ) from None
    except (ValueError, RecursionError) as error:  # also of UTF-8
        raise UsageError(f"{path} is not TOML: {error}") from None
    try:
        for change in changes:
            _change(body, change)
        return parse_scenario(body, text, path.parent)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def parse_scenario(body: Mapping[str, Any], text: str, folder: Path) -> Scenario:
    """Raises UsageError naming the key."""
    _require_text(body)
    known = {*_SCALARS, *_TABLES, *_FREE, "model", "partition", "server", "profiles"}
    for key in body:
        if key not in known:
            raise UsageError(f"a scenario has no {shown(key)}; expected {', '.join(sorted(known))}")
    if not isinstance(body.get("name"), str) or not body["name"]:
        raise UsageError("name is missing")
    given: dict[str, Any] = {
        key: from_mapping(kind, _table(body, key), key) for key, kind in _TABLES.items() if key in body
    }
    given |= {key: _table(body, key) for key in _FREE}
    scalars = {key: body[key] for key in _SCALARS if key in body}
    plain = from_mapping(_Scalars, scalars, "scenario")
    sharing = dict(_table(body, "partition"))
    count = from_mapping(_Count, {key: sharing.pop(key) for key in _COUNT if key in sharing}, "partition")
    sharing = {"scheme": Scenario.partition.scheme, **sharing}
    num_devices = count.num_devices
    if num_devices is None:
        num_devices = 0 if sharing["scheme"] == "column" else DEFAULT_DEVICES
    model = dict(_table(body, "model"))
    options = model.pop("options", {})
    server = dict(_table(body, "server"))
    pace = server.pop("pace", {})
    active_sec = from_mapping(_Server, server, "server").active_sec
    return Scenario(
        **vars(plain),
        **given,
        num_devices=num_devices,
        partition=from_mapping(PartitionSettings, sharing, "partition"),
        model=from_mapping(ModelSource, model, "model"),
        model_options=_mapping(options, "model.options"),
        server=ServerSettings(active_sec, _mapping(pace, "server.pace")),
        profiles=_profiles(body.get("profiles", [])),
        toml=text,
        folder=folder,
    )


@dataclass(frozen=True)
class _Scalars:
    """The single values at the top of a scenario."""

    name: str
    title: str = ""
    seed: int = 0
    target_accuracy: float | None = None
    trace: str | None = None


@dataclass(frozen=True)
class _Count:
    num_devices: int | None = None


@dataclass(frozen=True)
class _Server:
    active_sec: float = ServerSettings.active_sec


def _change(body: dict[str, Any], change: str) -> None:
    key, equals, value = change.partition("=")
    *tables, last = key.strip().split(".")
    try:
        if not equals or not last:
            raise ValueError("no key and value")
        parsed = tomllib.loads(f"value = {value}")
        if parsed.keys() != {"value"}:
            raise ValueError("more than one value")
    except ValueError:
        raise UsageError(
            f"expected KEY=VALUE, the value as in TOML (a text in quotes); received {shown(change)}"
        ) from None
    for table in tables:
        body = body.setdefault(table, {})
        if not isinstance(body, dict):
            raise UsageError(f"{shown(key)} names no setting: {shown(table)} is no table")
    body[last] = parsed["value"]


def _require_text(value: object, key: str = "") -> None:
    """No path, name or argument can hold a zero character, and what takes them dies of one."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            _require_text(item, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for item in value:
            _require_text(item, key)
    elif isinstance(value, str) and "\0" in value:
        raise UsageError(f"{shown(key)} is {shown(value)}; expected a text without zero characters")


def _table(body: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    return _mapping(body.get(key, {}), key)


def _mapping(value: object, owner: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UsageError(f"{owner} is {shown(value)}; expected settings by name")
    return value


def _profiles(value: object) -> str | Mapping[str, Any] | tuple[Mapping[str, Any], ...]:
    """The name of a fleet, or its tables; `fleets` has the rest of the checking."""
    if isinstance(value, str | Mapping):
        return value
    if not isinstance(value, list):
        raise UsageError(f"profiles is {shown(value)}; expected [[profiles]] tables or a fleet's name")
    return tuple(_mapping(item, "profiles") for item in value)


def _plain(value: object) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)
