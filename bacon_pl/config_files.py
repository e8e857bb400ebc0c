"""Finding configuration files by name or path, and reading them with the files that they extend."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jsonargparse import Path as Address

from bacon_pl import settings_text
from bacon_pl.errors import BaconError, one_line, unknown_name
from bacon_pl.settings_text import GIVE

EXTENDS = "extends"
"""The key under which a file names the files that it extends: a name, a path or a list; later ones override earlier."""

FOR = "for"
"""The key under which a file holds settings for a dataset, ``mnist``, a number of images per class, ``ipc10``, both,
``mnist/ipc10``, a method below the file, ``methods/idc``, or a budget, ``budgets/small``. What is held for one may be
divided by the others."""

_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Layer:
    """The settings of one file, without those of the files that it extends.

    Attributes:
        origin: Name or path of the file in messages; empty for settings that were given as text.
        settings: Settings by section.
        path: The file, or None for text.
        given: The name or path given by the user, of this file or of one that extends it; empty for text.
    """

    origin: str
    settings: dict[str, Any]
    path: Path | None = None
    given: str = ""

    @property
    def where(self) -> str:
        """Description of the file for messages."""
        if self.given in ("", self.origin):
            return f"'{self.origin}'"
        return f"'{self.origin}' (which '{self.given}' extends)"


OF_THE_DATA = ("ipc", "factor", "start", "network", "augment", "pretraining")
"""Settings of the model that depend on the data or the budget rather than the method, and so apply to all methods."""


def is_own(layer: Layer) -> bool:
    """Return whether a layer is one of the package's own configurations."""
    return layer.path is not None and layer.path.resolve().is_relative_to(folder().resolve())


def method_of(layer: Layer) -> str | None:
    """Return the name of a layer that is one of the package's methods, or None for any other layer."""
    return name if (name := _own_name(layer)).startswith("methods/") else None


def budget_of(layer: Layer) -> str | None:
    """Return the name of a layer that is one of the package's budgets, or None for any other layer."""
    return name if (name := _own_name(layer)).startswith("budgets/") else None


def recipe_of(layer: Layer) -> str | None:
    """Return the name of a layer that is one of the package's recipes of evaluations, or None for any other layer."""
    return name if (name := _own_name(layer)).startswith("recipes/") else None


def laid_over_all(layers: Iterable[Layer]) -> list[str]:
    """Return the names of the package's augmentations and budgets among all layers of a run, for sections ``for``."""
    names = dict.fromkeys(map(_own_name, layers))
    return [name for kind in ("augment/", "budgets/") for name in names if name.startswith(kind)]


def _own_name(layer: Layer) -> str:
    """Return the name of a layer that is one of the package's own, or nothing for any other layer."""
    if layer.path is None or not is_own(layer):
        return ""
    return layer.path.resolve().relative_to(folder().resolve()).with_suffix("").as_posix()


def folder() -> Path:
    """Return the folder of the package's configurations: inside the package in a wheel, next to it in a checkout.

    Raises:
        BaconError: The package was installed without them.
    """
    package = Path(__file__).parent
    for found in (package / "configs", package.parent / "configs"):
        if (found / "methods").is_dir():
            return found
    raise BaconError(f"the configurations are missing from '{package}': install the package again.")


def names(root: Path | None = None) -> list[str]:
    """List the names of all configurations in a folder: their relative paths without the suffix.

    Args:
        root: The folder; by default that of the package.
    """
    root = root or folder()
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))


def named(name: str, root: Path | None = None) -> Path | None:
    """Return the file of a configuration's name, or None; ``mnist/ipc10.yaml`` means the same as ``mnist/ipc10``."""
    root = root or folder()
    path = root / f"{name.removesuffix('.yaml')}.yaml"
    inside = not os.path.isabs(name) and ".." not in Path(name).parts
    return path if inside and path.is_file() else None


def overlay(given: str, group: str, root: Path | None = None) -> Path | None:
    """Return a file by its path, or a configuration by its name within a group or its full name; None if there is none.

    Args:
        given: ``dm``, ``methods/dm``, or a path.
        group: ``methods`` or ``budgets``.
        root: Folder of the configurations; by default the package's.
    """
    path = Path(given).expanduser()
    return path if path.is_file() else named(f"{group}/{given}", root) or named(given, root)


def find(given: str, beside: Path | None = None, option: str = "--config") -> Path:
    """Find a configuration: an existing file with this path, or else the package's configuration with this name.

    Args:
        given: Path or name.
        beside: Folder to which relative paths refer; by default the working directory.
        option: Option with which the configuration was given, for the message.

    Returns:
        The file.

    Raises:
        BaconError: There is no such configuration.
    """
    path = Path(beside or ".", Path(given).expanduser())
    if path.exists() and not path.is_dir():
        return path
    if found := named(given):
        return found
    if path.is_dir():
        raise BaconError(f"{option}: '{one_line(given)}' is a folder, not a file: {GIVE}.")
    if path.suffix in _SUFFIXES or given.startswith((os.sep, ".", "~")):
        near = _near_name(given)
        hint = f" Did you mean '{near}'?" if near else ""
        raise BaconError(f"{option}: the file does not exist: '{one_line(given)}'; {GIVE}.{hint}")
    raise BaconError(f"{option}: {unknown_name('configuration', given, names())} A path of a YAML file works, too.")


def _near_name(path: str) -> str | None:
    """Return the configuration of the package that matches the end of a path, as in ``configs/mnist/ipc10.yaml``."""
    parts = Path(path).with_suffix("").parts
    ends = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((end for end in ends if named(end)), None)


def layers(given: str, option: str = "--config") -> list[Layer]:
    """Read a configuration with all files that it extends.

    Args:
        given: A path, a name, or settings as YAML text.
        option: Option with which the configuration was given, for messages.

    Returns:
        Layers of settings, each of which overrides those before it. A file that is extended twice appears once, at its
        first position.

    Raises:
        BaconError: A file is missing or is not a YAML file with settings, or files extend each other in a circle.
    """
    if not os.path.exists(given):  # accepts any text, unlike pathlib
        if given.lstrip().startswith("{") or "\n" in given or ": " in given:
            return _of_text(given, "", option)
        if "://" in given:
            return _of_text(_fetched(given, option), given, option)
    return _expanded(find(given, None, option), given, option, ())


def _fetched(address: str, option: str) -> str:
    try:
        return Address(address, mode="fsur").get_content()
    except Exception as error:  # packages for protocols raise exceptions of many types
        raise BaconError(f"{option}: cannot read '{address}' ({one_line(error).rstrip('.')}): {GIVE}.") from error


def _of_text(text: str, origin: str, option: str) -> list[Layer]:
    settings = parsed(text, option)
    below: list[Layer] = []
    for item in _extended(settings, option, origin):
        _add(below, _expanded(find(item, None, option), item, option, ()))
    return [*below, Layer(origin, settings)]


def _expanded(path: Path, origin: str, option: str, above: tuple[Path, ...]) -> list[Layer]:
    own = path.resolve()
    if own in above:
        circle = " → ".join(f"'{one.name}'" for one in (*above[above.index(own) :], own))
        raise BaconError(f"{option}: configurations extend each other in a circle ({circle}): take one `extends` out.")
    settings = read(path, option)
    below: list[Layer] = []
    for item in _extended(settings, option, str(path)):
        where = f"{option}: `extends` in '{origin}'"
        _add(below, _expanded(find(item, path.parent, where), item, where, (*above, own)))
    return [*below, Layer(origin, settings, path)]


def _add(below: list[Layer], more: Iterable[Layer]) -> None:
    known = {layer.path and layer.path.resolve() for layer in below}
    below += [layer for layer in more if layer.path is None or layer.path.resolve() not in known]


def for_data(layer: Layer, name: Any, ipc: Any, others: Sequence[str] = ()) -> list[Layer]:
    """Divide a layer into its general settings and those that it holds for the data, method and budget of a run.

    Args:
        layer: The layer, which may have a section ``for``.
        name: Name of the dataset that is selected by the layers below; None if none is.
        ipc: Images per class that are selected by the layers below.
        others: Names of the package's method among the layers below, and of its augmentations and budgets among all
            layers, such as ``methods/idc``, ``augment/unmirrored`` and ``budgets/small``.

    Returns:
        The general settings, followed by those for the number of images per class, for the dataset, for both together,
        and for the others in their order, where there are any.

    Raises:
        BaconError: The section does not hold settings by name.
    """
    if FOR not in layer.settings:
        return [layer]
    settings = dict(layer.settings)
    found = settings.pop(FOR)
    if not (isinstance(found, Mapping) and all(isinstance(part, Mapping) for part in found.values())):
        raise BaconError(
            f"--config: `{FOR}` in {layer.where} must hold settings by the name of a dataset or of a schedule, as in "
            "mnist/ipc10: {model: {lr: 0.1}}, got "
            f"{one_line(found, 80)}."
        )
    own = [found[key] for key in (f"ipc{ipc}", name, f"{name}/ipc{ipc}", *others) if key in found]
    parts = [replace(layer, settings=dict(part)) for part in own]
    return [replace(layer, settings=settings), *(one for part in parts for one in for_data(part, name, ipc, others))]


def _extended(settings: dict[str, Any], option: str, origin: str) -> list[str]:
    """Remove the names of the extended files from a file's settings and return them."""
    given = settings.pop(EXTENDS, [])
    found = [given] if isinstance(given, str) else given
    if not (isinstance(found, list) and all(isinstance(item, str) for item in found)):
        raise BaconError(
            f"{option}: `extends` in '{origin}' must be a name or a list of names such as mnist/ipc10, got "
            f"{one_line(given)}."
        )
    return found


def read(path: Path, option: str = "--config") -> dict[str, Any]:
    """Read the settings of one file, without the files that it extends.

    Args:
        path: The file.
        option: Option with which the file was given, for the message.

    Returns:
        The settings.

    Raises:
        BaconError: The file cannot be read, is not a YAML file with settings, or is empty.
    """
    return parsed(settings_text.read(path, option), option, path)


def parsed(text: str, option: str = "--config", path: Path | None = None) -> dict[str, Any]:
    """Parse YAML settings, with the command line's rules for numbers (``1e-3`` is a number).

    Args:
        text: The YAML text.
        option: Option with which the text was given, for the message.
        path: File of the text; paths of other YAML files in the text are relative to the folder of this file.

    Returns:
        The settings.

    Raises:
        BaconError: The text is not YAML with settings, or is empty.
    """
    settings = settings_text.load(text, f"{option}: the file '{path}'" if path else f"{option}: the text")
    return _anchored(settings, path.parent) if path else settings


def _anchored(value: Any, start: Path) -> Any:
    """Convert relative paths of existing YAML files in settings to paths that start at ``start``."""
    if isinstance(value, dict):
        return {name: item if name == EXTENDS else _anchored(item, start) for name, item in value.items()}
    if isinstance(value, list):
        return [_anchored(item, start) for item in value]
    if isinstance(value, str) and value.endswith(_SUFFIXES) and (start / value).is_file():
        return str(start / value)
    return value


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two configurations, where the second overrides the first (see :func:`settings_text.laid_over`).

    If the second selects another family of methods, only the settings of :data:`OF_THE_DATA` of the first model remain.
    """
    model: Any = below.get("model")
    other: Any = above.get("model")
    model, other = (side if isinstance(side, Mapping) else {} for side in (model, other))
    if other.get("class_path", model.get("class_path")) != model.get("class_path"):
        stays = {name: value for name, value in model.items() if name in OF_THE_DATA}
        below = {**below, "model": {**stays, "class_path": other["class_path"]}}
    return dict(settings_text.laid_over(below, above))


def headline(path: Path) -> str:
    """Return the headline of a configuration: its first line, if that is a comment."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ").rstrip() if first.startswith("#") else ""
