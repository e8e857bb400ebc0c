"""Settings as YAML text: read once, strictly. Which files there are, and what settings mean, is not known here."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader

from bacon_pl.errors import BaconError, one_line

GIVE = "give a YAML file such as --print_config writes, or a name that `bacon configs` lists"

_MOST_BYTES = 1 << 20  # a file of settings has a few thousand; what is longer was given by mistake
_MOST_VALUES = 100_000
_MOST_LEVELS = 50
_LONG = 100  # characters of a text that count as one more value
_LINES = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MERGE = "<<"


class _FlawError(Exception):
    """What is wrong with a text: the rest of a sentence, and what to do."""

    def __init__(self, said: str, remedy: str = GIVE) -> None:
        super().__init__(said)
        self.remedy = remedy


def read(path: Path, option: str) -> str:
    """Read a file of settings.

    Args:
        path: A regular file, or a pipe that the shell made (``<(command)``, ``/dev/stdin``).
        option: What the user gave it as, for messages.

    Raises:
        BaconError: It is neither, or too long, or no text, or it cannot be read.
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
        raise BaconError(f"{file_is} no text ({error}): {GIVE}.") from error


def load(text: str, what: str) -> dict[str, Any]:
    """Turn YAML into settings, reading numbers as the command line does (``1e-3`` is one).

    A dotted key at the top, ``model.ipc: 3``, is what it is on the command line: ``model: {ipc: 3}``.

    Args:
        text: The YAML.
        what: What it is: the start of a message's sentence.

    Raises:
        BaconError: It is no YAML of settings, says nothing, gives a setting twice, or nests or repeats itself without
            end.
    """
    try:
        _check(text)
        # The comment keeps jsonargparse from taking `model:` alone, a section without settings, for text.
        found = get_loader("yaml")(f"{text}\n#\n")
        if found is None:
            raise _FlawError(
                "is empty, or all of it is commented out",
                f"leave it out, or write {{}} if it is to say nothing; else {GIVE}",
            )
        if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
            raise _FlawError(f"is no YAML of settings ({one_line(found, 80)})")
        return _spread(found)
    except yaml.YAMLError as error:
        raise BaconError(f"{what} is no YAML ({one_line(error).rstrip('.')}): {GIVE}.") from error
    except _FlawError as flaw:
        raise BaconError(f"{what} {flaw}: {flaw.remedy}.") from flaw


def _spread(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with dotted keys at the top written out."""
    spread: dict[str, Any] = {}
    for key, value in settings.items():
        first, *others = key.split(".")
        for word in reversed(others):
            value = {word: value}
        spread[first] = _together(spread[first], value, first) if first in spread else value
    return spread


def _together(one: Any, other: Any, name: str) -> Any:
    """Two parts of what a text says of one setting; none of them is in both, for that has been looked for."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        raise _FlawError(f"gives '{name}' and a setting within it", f"write {name}: {{…}} with all that belongs to it")
    both = {key: _together(one[key], other[key], f"{name}.{key}") for key in one.keys() & other.keys()}
    return {**one, **other, **both}


@dataclass
class _Level:
    """A mapping or a list that is being read.

    Attributes:
        name: Dotted name of the setting that it is the value of.
        mapping: Whether it is a mapping.
        anchor: Its name for aliases.
        values: How many values it holds, aliases written out.
        key: The key, or the number, of the value that comes next; None where a key comes next.
    """

    name: str
    mapping: bool
    anchor: str | None
    values: int = 1
    key: str | None = None


def _check(text: str) -> None:
    """Go through the text event by event, without building anything.

    Raises:
        _FlawError: A setting is given twice, or the text would grow or nest beyond all measure.
        yaml.YAMLError: It is no YAML.
    """
    levels: list[_Level] = []
    sizes: dict[str, int] = {}
    lines: dict[str, int] = {}  # of every setting so far, by its dotted name
    for event in yaml.parse(text, Loader=_LINES):
        line = event.start_mark.line + 1
        if isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            level = levels.pop()
            if level.anchor is not None:
                sizes[level.anchor] = level.values
            _add(levels, level.values)
        elif not isinstance(event, yaml.NodeEvent):  # where the text or a document begins and ends
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
    """The dotted name of the value that comes next."""
    key = level.key if level.mapping else str(level.values)
    return f"{level.name}.{key}" if level.name else f"{key}"


def _add(levels: list[_Level], values: int) -> None:
    """Count a value that is complete."""
    if levels:
        levels[-1].key = None
        levels[-1].values += values
        if levels[-1].values > _MOST_VALUES:
            raise _FlawError(f"stands for more than {_MOST_VALUES:,} values")
