"""Strict reading of settings from YAML text."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader

from bacon_pl.errors import BaconError, one_line

FLAG: Any = {"type": bool, "default": False, "nargs": "?", "const": True}
"""What an option takes that is switched on by its name alone, and off by ``--NAME false``."""

GIVE = "give a YAML file such as --print_config writes, or a name that `bacon configs` lists"

_MOST_BYTES = 1 << 20  # settings have a few thousand bytes; a longer file was given by mistake
_MOST_VALUES = 100_000
_MOST_LEVELS = 50
_LONG = 100  # characters of a text that count as one more value
_LINES = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MERGE = "<<"


def names_in(given: str | Iterable[str]) -> list[str]:
    """Return the names in a list, or in text with commas, with or without brackets; repeats are left out."""
    words = given.strip().removeprefix("[").removesuffix("]").split(",") if isinstance(given, str) else given
    return list(dict.fromkeys(name for name in map(str.strip, words) if name))


class _FlawError(Exception):
    """An error in a text: the end of a sentence that describes it, and what to do."""

    def __init__(self, said: str, remedy: str = GIVE) -> None:
        super().__init__(said)
        self.remedy = remedy


def read(path: Path, option: str) -> str:
    """Read a file of settings.

    Args:
        path: A regular file, or a pipe made by the shell (``<(command)``, ``/dev/stdin``).
        option: Option with which the file was given, for messages.

    Returns:
        The text.

    Raises:
        BaconError: The path is something else, or the file is too long, is not text, or cannot be read.
    """
    file_is = f"{option}: the file '{path}' is"
    of_the_shell = os.path.abspath(path).startswith(("/dev/fd/", "/proc/self/fd/", "/dev/stdin"))
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or (of_the_shell and (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)))):
            kind = "a pipe" if stat.S_ISFIFO(mode) else "a device" if stat.S_ISCHR(mode) else "of a special kind"
            raise BaconError(f"{file_is} {kind} and not a regular file: {GIVE}.")
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise BaconError(f"{option}: cannot read '{path}' ({error.strerror}): {GIVE}.") from error
    if len(data) > _MOST_BYTES:
        raise BaconError(f"{file_is} longer than {_MOST_BYTES >> 20} MiB, which settings never are: {GIVE}.")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BaconError(f"{file_is} not text ({error}): {GIVE}.") from error


def load(text: str, what: str) -> dict[str, Any]:
    """Parse YAML settings, with the command line's rules for numbers (``1e-3`` is a number).

    As on the command line, a dotted key at the top level, ``model.ipc: 3``, means ``model: {ipc: 3}``.

    Args:
        text: The YAML text.
        what: Description of the text, as the start of a sentence in messages.

    Returns:
        The settings.

    Raises:
        BaconError: The text is not YAML with settings, is empty, contains a setting twice, or is nested or repeated
            excessively.
    """
    try:
        _check(text)
        # Without the comment, jsonargparse would read a lone `model:`, a section without settings, as text.
        found = get_loader("yaml")(f"{text}\n#\n")
        if found is None:
            raise _FlawError(
                "is empty, or all of it is commented out",
                f"leave it out, or write {{}} if it is to say nothing; else {GIVE}",
            )
        if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
            raise _FlawError(f"is not YAML with settings ({one_line(found, 80)})")
        return _spread(found)
    except yaml.YAMLError as error:
        if "nesting depth" in str(error):  # newer versions of PyYAML have a limit of their own, which is larger
            mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
            where = f" in line {mark.line + 1}" if mark else ""
            raise BaconError(f"{what} nests more than {_MOST_LEVELS} levels deep{where}: {GIVE}.") from error
        raise BaconError(f"{what} is not YAML ({one_line(error).rstrip('.')}): {GIVE}.") from error
    except _FlawError as flaw:
        raise BaconError(f"{what} {flaw}: {flaw.remedy}.") from flaw


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Convert settings with dotted names to nested settings, in whichever order they are given.

    As on the command line, options of a class may stand beside its name: ``{"model.network": "MLP",
    "model.network.width": 8}``.

    Args:
        settings: Values by name, which may be nested themselves.
    """
    found: dict[str, Any] = {}
    for name, value in sorted(settings.items(), key=lambda item: item[0].count(".")):
        value = nested(value) if isinstance(value, Mapping) and not {"class_path"} & value.keys() else value
        for part in reversed(name.split(".")):
            value = {part: value}
        found = laid_over(found, value)
    return found


def value_at(settings: Mapping[str, Any], name: str) -> Any:
    """Return a setting by its dotted name; None if it does not exist."""
    value: Any = settings
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def laid_over(below: Any, above: Any) -> Any:
    """Merge two values of settings, where the second overrides the first.

    As on the command line, options beside or above the name of a class become its arguments, and a class that is named
    again, by its full name or the short one, keeps those that it has. Arguments of different classes do not mix.

    Args:
        below: The value to override.
        above: The value that overrides it, wherever it says anything.
    """
    if not isinstance(above, Mapping):
        return above
    if isinstance(below, str):
        below = {"class_path": below}
    if not isinstance(below, Mapping):
        return above
    if "class_path" in above and _class_name(above) != _class_name(below):
        return above
    alone = "init_args" in below or below.keys() == {"class_path"}  # else its arguments stand beside the name
    if alone and not {"class_path", "init_args", "dict_kwargs"} & above.keys():
        above = {"init_args": above}
    return {**below, **{name: laid_over(below.get(name), value) for name, value in above.items()}}


def _class_name(settings: Mapping[str, Any]) -> str:
    return str(settings.get("class_path")).rpartition(".")[2]


def _spread(settings: dict[str, Any]) -> dict[str, Any]:
    """Expand dotted keys at the top level of settings."""
    spread: dict[str, Any] = {}
    for key, value in settings.items():
        first, *others = key.split(".")
        for word in reversed(others):
            value = {word: value}
        spread[first] = _together(spread[first], value, first) if first in spread else value
    return spread


def _together(one: Any, other: Any, name: str) -> Any:
    """Merge two parts of a setting, which have no setting in common, since repeated settings are rejected earlier."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        raise _FlawError(f"gives '{name}' and a setting within it", f"write {name}: {{…}} with all that belongs to it")
    both = {key: _together(one[key], other[key], f"{name}.{key}") for key in one.keys() & other.keys()}
    return {**one, **other, **both}


@dataclass
class _Level:
    """A mapping or list that is being read.

    Attributes:
        name: Dotted name of the setting with this value.
        mapping: Whether it is a mapping.
        anchor: Name of its anchor for aliases, or None.
        values: Number of contained values, with aliases expanded.
        key: Key or index of the next value; None if a key is next.
    """

    name: str
    mapping: bool
    anchor: str | None
    values: int = 1
    key: str | None = None


def _check(text: str) -> None:
    """Check the text event by event, without building objects.

    Raises:
        _FlawError: A setting appears twice, or the text is nested or repeated excessively.
        yaml.YAMLError: The text is not YAML.
    """
    levels: list[_Level] = []
    sizes: dict[str, int] = {}
    lines: dict[str, int] = {}  # line of every setting so far, by its dotted name
    for event in yaml.parse(text, Loader=_LINES):
        line = event.start_mark.line + 1
        if isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            level = levels.pop()
            if level.anchor is not None:
                sizes[level.anchor] = level.values
            _add(levels, level.values)
        elif not isinstance(event, yaml.NodeEvent):  # start or end of the text or a document
            continue
        elif isinstance(event, yaml.AliasEvent):
            if any(level.anchor == event.anchor for level in levels):
                raise _FlawError(f"refers to itself: '*{event.anchor}' in line {line} stands within '&{event.anchor}'")
            _add(levels, sizes.get(event.anchor, 1))
        elif isinstance(event, yaml.CollectionStartEvent):
            if len(levels) == _MOST_LEVELS:
                raise _FlawError(f"nests more than {_MOST_LEVELS} levels deep in line {line}")
            name = _name(levels[-1]) if levels else ""
            levels.append(_Level(name, isinstance(event, yaml.MappingStartEvent), event.anchor))
        elif levels and levels[-1].mapping and levels[-1].key is None:
            levels[-1].key = event.value
            name = _name(levels[-1])
            if event.value == _MERGE:
                continue
            if name in lines:
                where = f"in line {line}" if line == lines[name] else f"in lines {lines[name]} and {line}"
                raise _FlawError(f"gives '{one_line(name, 80)}' twice, {where}", "take one of them out")
            lines[name] = line
        else:
            values = 1 + len(event.value) // _LONG
            if event.anchor is not None:
                sizes[event.anchor] = values
            _add(levels, values)


def _name(level: _Level) -> str:
    """Return the dotted name of the next value."""
    key = level.key if level.mapping else str(level.values)
    return f"{level.name}.{key}" if level.name else f"{key}"


def _add(levels: list[_Level], values: int) -> None:
    """Count a completed value."""
    if levels:
        levels[-1].key = None
        levels[-1].values += values
        if levels[-1].values > _MOST_VALUES:
            raise _FlawError(f"stands for more than {_MOST_VALUES:,} values")


def quoted(settings: Mapping[str, Any]) -> str:
    """Convert settings to YAML with quoted text, so that every parser reads the same values."""
    return yaml.dump(dict(settings), Dumper=_Quoting, default_flow_style=True, allow_unicode=True, sort_keys=False)


class _Quoting(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


_Quoting.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))
