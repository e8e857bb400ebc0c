"""The command ``bacon configs``, which lists the configurations or copies one for editing."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

from bacon_pl import config_files
from bacon_pl.errors import BaconError, one_line

USAGE = """usage: bacon configs [NAME ...]
       bacon configs copy NAME [DEST]

List the configurations that --config takes by name (all, or those below a name, e.g. mnist); or write one, with all
that it extends, as a file of your own to edit.

  DEST    the file to write, or a folder; by default a file here, named as the configuration, e.g. mnist-ipc10.yaml
"""


class Configs:
    """List the configurations, or copy one."""

    name = "configs"

    def __init__(self, args: Sequence[str]) -> None:
        words = list(args)
        if wrong := next((word for word in words if word.startswith("-") and word not in ("-h", "--help")), None):
            raise BaconError(f"unknown option {wrong}. `--help` shows what may be given.")
        self.help = any(word.startswith("-") for word in words)
        self.copies = words[:1] == ["copy"]
        self.words = words[1:] if self.copies else words
        if self.copies and not self.help and len(self.words) not in (1, 2):
            raise BaconError("give a name and, if you like, a file: bacon configs copy NAME [DEST].")

    def run(self) -> None:
        """List the configurations or copy one."""
        if self.help:
            print(USAGE, end="")
        elif self.copies:
            print(copy(*self.words))
        else:
            print("\n".join(listing(self.words)))


def listing(within: Sequence[str] = ()) -> list[str]:
    """Return one line per configuration with its name and headline.

    Args:
        within: Names or groups of the configurations to list; by default all.

    Raises:
        BaconError: There is no configuration with one of the names.
    """
    names = config_files.names()
    for word in within:
        if not any(_below(name, word) for name in names):
            raise BaconError(f"no configuration is called '{word}', and none lies below it: `bacon configs` lists all.")
    shown = [name for name in names if not within or any(_below(name, word) for word in within)]
    width = max(map(len, shown))
    root = config_files.folder()
    return [f"{name:{width}}  {config_files.headline(root / f'{name}.yaml')}".rstrip() for name in shown]


def _below(name: str, word: str) -> bool:
    return name == word or name.startswith(f"{word.rstrip('/')}/")


def copy(given: str, dest: str | os.PathLike[str] | None = None) -> str:
    """Write a configuration to one file, with the configurations that it extends merged in.

    Args:
        given: Name or path of the configuration.
        dest: File to write, or an existing folder; by default a file in the working directory.

    Returns:
        A description of what was written and how to use it.

    Raises:
        BaconError: There is no such configuration, the file exists, or it cannot be written.
    """
    layers = config_files.layers(given, "NAME")
    own = layers[-1]
    if own.path is None:
        raise BaconError(f"give a name that `bacon configs` lists, or a file, not '{one_line(given, 80)}'.")
    name = given.removesuffix(".yaml").strip("/.").replace("/", "-")
    path = Path(dest if dest is not None else f"{name}.yaml")
    if path.is_dir():
        path = path / f"{name}.yaml"
    settings = reduce(config_files.merged, (layer.settings for layer in layers))
    extended = ", ".join(layer.origin for layer in layers[:-1])
    made = f"# A copy of {given}{f', with {extended} merged in' if extended else ''}."
    text = yaml.dump(settings, Dumper=_Plain, sort_keys=False, allow_unicode=True, width=110)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "x", encoding="utf-8") as file:
            file.write("\n".join([*_comments(own.path), made, text]))
    except FileExistsError as error:
        raise BaconError(f"'{path}' is there already: remove it, or give another file as DEST.") from error
    except OSError as error:
        raise BaconError(f"cannot write '{path}' ({error.strerror}): give another file as DEST.") from error
    schedule = "" if runs_alone(settings) else "--config mnist/ipc10 "
    what = "" if not schedule else ", which is laid over a schedule"
    return f"wrote {path}{what}: edit it, then bacon fit {schedule}--config {shlex.quote(str(path))}"


def runs_alone(settings: Mapping[str, Any]) -> bool:
    """Return whether a configuration sets the dataset and the number of steps, so that it needs no other one."""
    data, trainer = (settings.get(section) or {} for section in ("data", "trainer"))
    return "name" in data and "max_steps" in trainer


def _comments(path: Path) -> list[str]:
    """Return the comment lines at the start of a file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    end = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return lines[:end]


class _Plain(yaml.SafeDumper):
    """Writes lists of plain values on one line, and does not use aliases."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def represent_list(self, data: list[object]) -> yaml.Node:
        flow = not any(isinstance(item, dict | list) for item in data)
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flow)


_Plain.add_representer(list, _Plain.represent_list)
