"""The one configuration file: TOML in, settings (`bridge.config`) out, and the other way round.

Unknown keys and ill-typed values are `ConfigError`s that name file, key and the nearest known
key. The file is found by, in this order: an explicit path, $SBRIDGE_CONFIG,
/etc/sbridge/sbridge.toml.
"""

import dataclasses
import difflib
import math
import os
import tomllib
import typing
from pathlib import Path, PurePosixPath
from typing import Any

from bridge.config import Config
from bridge.errors import ConfigError

DEFAULT_PATH = Path("/etc/sbridge/sbridge.toml")


def find_path(explicit: Path | None = None) -> Path:
    """Return the configuration file's path; it need not exist."""
    if explicit is not None:
        return explicit
    return Path(os.environ.get("SBRIDGE_CONFIG") or DEFAULT_PATH)


def load(path: Path) -> Config:
    """Read the file at `path`; raises `ConfigError` naming the file and the key."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        hint = "`sbridge config example` prints one to begin with."
        raise ConfigError(f"{path}: cannot be read: {error}", hint=hint) from error
    return parse(text, str(path))


def parse(text: str, source: str) -> Config:
    """Read configuration text; `source` names it in errors."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: not valid TOML: {error}") from error
    sections = typing.get_type_hints(Config)
    for name, table in tables.items():
        if name not in sections:
            raise _unknown(source, "", name, list(sections))
        if not isinstance(table, dict):
            raise ConfigError(f"{source}: {name} must be a table: [{name}]")
    return Config(
        **{name: _section(sections[name], table, name, source) for name, table in tables.items()}
    )


def _section(kind: Any, table: dict[str, Any], section: str, source: str) -> Any:
    fields = {f.name: f for f in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    values = {}
    for key, value in table.items():
        name = f"{section}.{key}"
        if key not in fields:
            raise _unknown(source, f"{section}.", key, list(fields))
        values[key] = _value(hints[key], value, fields[key].metadata, f"{source}: {name}")
    return kind(**values)


def _value(kind: Any, value: Any, limits: typing.Mapping[str, Any], where: str) -> Any:
    if kind is Path:
        return _absolute_path(value, where)
    if kind is bool:
        return _checked(isinstance(value, bool), value, where, "true or false")
    if kind is int or kind is float:
        return _number(kind, value, limits, where)
    if kind is str:
        text = _checked(isinstance(value, str), value, where, "a string")
        return _choice(text, limits, where)
    return _strings(value, limits, where)


def _absolute_path(value: Any, where: str) -> Path:
    absolute = isinstance(value, str) and PurePosixPath(value).is_absolute() and "\0" not in value
    return Path(_checked(absolute, value, where, "an absolute path"))


def _number(kind: Any, value: Any, limits: typing.Mapping[str, Any], where: str) -> Any:
    is_number = isinstance(value, (int, float) if kind is float else int)
    wanted = "a number" if kind is float else "a whole number"
    number = kind(_checked(is_number and not isinstance(value, bool), value, where, wanted))
    if not math.isfinite(number):
        raise ConfigError(f"{where} must be a finite number, not {value!r}")
    low, high = limits.get("low"), limits.get("high")
    if (low is not None and number < low) or (high is not None and number > high):
        bounds = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ConfigError(f"{where} must be {bounds}, not {value!r}")
    return number


def _strings(value: Any, limits: typing.Mapping[str, Any], where: str) -> tuple[str, ...]:
    are_strings = isinstance(value, list) and all(isinstance(item, str) for item in value)
    items = _checked(are_strings, value, where, "a list of strings")
    if len(items) < limits.get("least", 0):
        raise ConfigError(f"{where} must name at least {limits['least']}")
    return tuple(_choice(item, limits, where) for item in items)


def _choice(value: str, limits: typing.Mapping[str, Any], where: str) -> str:
    choices = limits.get("choices")
    if choices and value not in choices:
        raise ConfigError(f"{where} must be one of {', '.join(choices)}, not {value!r}")
    return value


def _checked(is_right: bool, value: Any, where: str, wanted: str) -> Any:
    if not is_right:
        raise ConfigError(f"{where} must be {wanted}, not {value!r}")
    return value


def _unknown(source: str, prefix: str, key: str, known: list[str]) -> ConfigError:
    close = difflib.get_close_matches(key, known, 1, 0.5)
    names = ", ".join(prefix + name for name in known)
    hint = f"Did you mean {prefix}{close[0]}?" if close else f"Known are: {names}."
    return ConfigError(f"{source}: unknown key {prefix}{key}", hint=hint)


def example() -> str:
    """Return a commented file that shows every setting at its default."""
    lines = [
        "# sbridge configuration. Every setting is shown with its default, commented out.",
        "# `sbridge config check` reads this file and says what is wrong with it.",
    ]
    for section in dataclasses.fields(Config):
        kind = typing.get_type_hints(Config)[section.name]
        lines += ["", f"# {kind.__doc__}", f"[{section.name}]"]
        for entry in dataclasses.fields(kind):
            lines += ["", *(f"# {line}" for line in entry.metadata["doc"].split("\n"))]
            if "choices" in entry.metadata:
                lines.append(f"# One of: {', '.join(entry.metadata['choices'])}.")
            lines.append(f"#{entry.name} = {toml_value(entry.default)}")
    return "\n".join(lines) + "\n"


def show(config: Config) -> str:
    """Return the configuration in force as TOML."""
    lines: list[str] = []
    for section in dataclasses.fields(config):
        part = getattr(config, section.name)
        lines += [f"[{section.name}]"]
        lines += [
            f"{f.name} = {toml_value(getattr(part, f.name))}" for f in dataclasses.fields(part)
        ]
        lines.append("")
    return "\n".join(lines)


def toml_value(value: Any) -> str:
    """Return a setting's value in TOML's notation."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return (
        '"' + "".join(c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}" for c in escaped) + '"'
    )
