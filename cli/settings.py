"""Settings of a command from a TOML file, the environment and the command line, in rising precedence.

Every long option of the command is a setting: `--data-dir D` is `data-dir = "D"` in the file and
`FEDFER_DATA_DIR=D` in the environment, so that an option is declared once. Positional arguments are settings
by their name. Switches are `true` or `false`; options that may be repeated are lists in the file and
separated by commas in the environment. Paths are relative to the working directory, wherever they come from.
"""

import argparse
import difflib
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfer.aggregator.logs import masked
from fedfer.model.errors import UsageError

PREFIX = "FEDFER_"
MAX_FILE_BYTES = 1 << 20
# Variables with the prefix that are no settings of this command: keys, what other commands read, tests.
OTHER_VARIABLES = re.compile(r"FEDFER_(ENROL_KEY|ADMIN_KEY|SERVER|TEST_\w+|FAULT\w*)")
NO_SETTINGS = ("help", "config", "show_config")
SWITCH_WORDS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
TOML_TYPES: dict[object, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
}
SOURCE_DEFAULT = "default"


@dataclass(frozen=True)
class Default:
    """A default that knows it is one: an argument with such a value was not given on the command line."""

    value: object

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True)
class Setting:
    """A value, where it came from, and whether the command can do without."""

    name: str
    value: Any
    source: str
    required: bool = False


@dataclass(frozen=True)
class Option:
    """One setting as the command's parser declares it. `flag` is None for a positional argument."""

    name: str
    dest: str
    flag: str | None
    kind: Callable[[str], Any]
    choices: tuple[str, ...]
    repeated: bool
    required: bool
    default: object

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper().replace("-", "_")


def add_numbers(
    add: Callable[..., object], owner: type[Any], rows: Iterable[tuple[str, type[int | float], str]]
) -> None:
    """Options (flag, kind, help) whose defaults are those of `owner`'s fields of the same names."""
    for flag, kind, words in rows:
        name = flag.removeprefix("--").replace("-", "_")
        add(flag, type=kind, default=getattr(owner, name), help=words)


def mark_defaults(parser: argparse.ArgumentParser, required: Iterable[str] = ()) -> tuple[Option, ...]:
    """Wraps the parser's defaults, so that `settle` can tell them from what was given; returns its options.

    `required` names settings that have to come from somewhere: argparse itself must not require them.
    """
    options = tuple(
        _option(action, action.dest in required)
        for action in parser._actions
        if action.dest not in NO_SETTINGS
    )
    wrapped = {o.dest: Default(o.default) for o in options if not o.repeated}  # argparse appends to a default
    parser.set_defaults(**wrapped)
    return options


def _option(action: argparse.Action, required: bool) -> Option:
    flag = next((text for text in action.option_strings if text.startswith("--")), None)
    return Option(
        name=flag.removeprefix("--") if flag else action.dest,
        dest=action.dest,
        flag=flag,
        kind=bool if action.nargs == 0 else action.type if callable(action.type) else str,
        choices=tuple(action.choices or ()),
        repeated=isinstance(action, argparse._AppendAction),
        required=required,
        default=action.default.value if isinstance(action.default, Default) else action.default,
    )


def settle(
    args: argparse.Namespace, options: Iterable[Option], environ: Mapping[str, str]
) -> dict[str, Setting]:
    """Every setting by its `dest`, from the strongest source that has it.

    The file is `args.config` or FEDFER_CONFIG. Raises UsageError for a file that cannot be read, an unknown
    key or variable, a value that does not fit; the message names key and source.
    """
    options = tuple(options)
    config = args.config or environ.get(PREFIX + "CONFIG")
    settled = {o.dest: Setting(o.name, o.default, SOURCE_DEFAULT, o.required) for o in options}
    layers = [*(_from_file(Path(config), options) if config else ()), *_from_environment(environ, options)]
    for option, value, source in layers:
        settled[option.dest] = Setting(option.name, value, source, option.required)
    for option in options:
        given = getattr(args, option.dest)
        if not (isinstance(given, Default) or (option.repeated and given is None)):
            source = f"flag {option.flag}" if option.flag else "command line"
            settled[option.dest] = Setting(option.name, given, source, option.required)
    return settled


def values_of(settings: Mapping[str, Setting]) -> argparse.Namespace:
    """The plain values by their `dest`. Raises UsageError if a required one is not set."""
    for setting in settings.values():
        if setting.required and setting.value is None:
            variable = PREFIX + setting.name.upper().replace("-", "_")
            raise UsageError(
                f"{setting.name} is not set; give it on the command line, as {variable}, "
                f"or as `{setting.name} = ...` in the file named by --config"
            )
    return argparse.Namespace(**{dest: setting.value for dest, setting in settings.items()})


@contextmanager
def naming_sources(settings: Mapping[str, Setting]) -> Iterator[None]:
    """Adds the value's source to a UsageError that begins with a setting's name ("clients is 0; ...")."""
    try:
        yield
    except UsageError as error:
        name = str(error).partition(" is ")[0]
        sources = [s.source for s in settings.values() if s.name == name and s.source != SOURCE_DEFAULT]
        if not sources:
            raise
        raise UsageError(f"{error} (from {sources[0]})") from None


def describe(settings: Mapping[str, Setting]) -> str:
    """All settings as a TOML file that means the same, each with its source; passwords masked."""
    lines = [_line(setting) for setting in settings.values()]
    width = max(map(len, lines))
    return "\n".join(
        f"{line:<{width}}  # {setting.source}" for line, setting in zip(lines, settings.values(), strict=True)
    )


def _line(setting: Setting) -> str:
    if setting.value is None:
        return f"# {setting.name} is not set" + ("; it is required" if setting.required else "")
    return f"{setting.name} = {_toml(setting.value)}"


def _toml(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return str(value)
        case list() | tuple():
            return f"[{', '.join(_toml(each) for each in value)}]"
    text = masked(str(value)).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda found: f"\\u{ord(found[0]):04x}", text) + '"'


def _from_file(path: Path, options: tuple[Option, ...]) -> Iterable[tuple[Option, object, str]]:
    known = {option.name: option for option in options}
    for key, value in _read_toml(path).items():
        if key not in known:
            raise UsageError(f"{path}: unknown key {key!r}{_meant(key, known)}")
        yield known[key], _from_toml(value, known[key], f"{path}: {key}"), str(path)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise UsageError(f"{path} has more than {MAX_FILE_BYTES} bytes; expected a file of settings")
        return tomllib.loads(data.decode())
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from None


def _from_toml(value: object, option: Option, where: str) -> object:
    if option.repeated:
        if not isinstance(value, list):
            raise UsageError(f"{where} is {value!r}; expected a list")
        return [_from_toml_one(each, option, where) for each in value]
    return _from_toml_one(value, option, where)


def _from_toml_one(value: object, option: Option, where: str) -> object:
    types, words = TOML_TYPES.get(option.kind, ((str,), "a text in quotes"))
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise UsageError(f"{where} is {value!r}; expected {words}")
    return value if isinstance(value, bool) else _convert(str(value), option, where)


def _from_environment(
    environ: Mapping[str, str], options: tuple[Option, ...]
) -> Iterable[tuple[Option, object, str]]:
    known = {option.variable: option for option in options}
    for name, text in sorted(environ.items()):
        if name in known:
            option = known[name]
            parts = [part for part in text.split(",") if part] if option.repeated else [text]
            values = [_convert(part, option, name) for part in parts]
            yield option, values if option.repeated else values[0], f"environment {name}"
        elif name.startswith(PREFIX) and name != PREFIX + "CONFIG" and not OTHER_VARIABLES.fullmatch(name):
            raise UsageError(f"environment: unknown variable {name}{_meant(name, known)}")


def _convert(text: str, option: Option, where: str) -> object:
    """The text as the option's parser would take it."""
    if option.kind is bool:
        if text.lower() not in SWITCH_WORDS:
            raise UsageError(f"{where} is {text!r}; expected true or false")
        return SWITCH_WORDS[text.lower()]
    try:
        value = option.kind(text)
    except (ValueError, TypeError, argparse.ArgumentTypeError):
        _, expected = TOML_TYPES.get(option.kind, ((str,), "another value"))
        raise UsageError(f"{where} is {masked(text)!r}; expected {expected}") from None
    if option.choices and value not in option.choices:
        raise UsageError(f"{where} is {text!r}; expected one of {', '.join(option.choices)}")
    return value


def _meant(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
