"""The command line before it is parsed: its configurations as layers, and the family of methods that it selects.

The parser is built for one family, so that its help lists only the options of that family. The family must therefore be
found first, in the options and in all configurations, each of which may name a different one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

from bacon_pl.commands.families import DEFAULT, find_family
from bacon_pl.config_files import (
    OF_THE_DATA,
    Layer,
    budget_of,
    for_data,
    is_own,
    laid_over_all,
    layers,
    method_of,
    parsed,
    read,
    recipe_of,
)
from bacon_pl.errors import BaconError, one_line
from bacon_pl.settings_text import laid_over, quoted

CLASS_PATH = "--model.class_path"
FIRST = "give first"
"""Words in the description of a setting's origin if only the order of the command line is wrong."""
_VALUED = ("--config", "-c", "--model", CLASS_PATH)
_ARGUMENTS = ("init_args", "dict_kwargs")


@dataclass(frozen=True)
class Choice:
    """A family named by an option or a configuration.

    Attributes:
        name: Class name or class path.
        origin: The option or file that names it, for messages.
        given: The configuration as given by the user, if the family is named in one.
    """

    name: str
    origin: str
    given: str = ""


class CommandLine:
    """The arguments of ``fit`` or ``eval``, in order.

    Settings of a model may be flat, ``model: {class_path: MyFamily, ipc: 10}``, or in the form of jsonargparse with
    ``init_args``. The parser gets flat settings without a class.

    Args:
        args: The arguments as given by the user.

    Raises:
        BaconError: A configuration is missing, or is not a YAML file with settings.
    """

    def __init__(self, args: Sequence[str]) -> None:
        self.parts: list[Layer | Choice | str] = []
        rest = list(args)
        given: list[tuple[str, list[Layer]] | Layer | str] = []
        while rest:
            word = rest.pop(0)
            name, equals, value = word.partition("=")
            if word.startswith("-c") and word != "-c":  # the value may follow without a space
                name, equals, value = "-c", "=", word[2:].removeprefix("=")
            if name not in _VALUED or not (equals or (rest and not rest[0].startswith("--"))):
                given.append(re.sub(r"^--model\.(init_args|dict_kwargs)\.", "--model.", word))
                continue
            value = value if equals else rest.pop(0)
            if name in ("--config", "-c"):
                given.append((value, layers(value)))
            else:
                given.append(Layer("", {"model": _loaded(value) if name == "--model" else {"class_path": value}}))
        ipc = _typed_ipc(given)
        files = [layer for item in given if isinstance(item, tuple) for layer in item[1]]
        others = laid_over_all(files)
        for item in given:
            if isinstance(item, str):
                self.parts.append(item)
            elif isinstance(item, Layer):
                self.parts += _flat(item)
            else:
                self._add(*item, ipc, others)

    def _add(self, value: str, found: Sequence[Layer], ipc: int | None, others: Sequence[str]) -> None:
        """Add the layers of a configuration, with what they hold for the data and method below, and for ``others``."""
        for layer in found:
            methods = [name for part in self.parts if isinstance(part, Layer) and (name := method_of(part))]
            data, model = self.section("data"), self.section("model")
            layer = replace(layer, given=value if layer.origin else "")
            images = model.get("ipc") if ipc is None else ipc
            for part in for_data(layer, data.get("name"), images, [*methods[-1:], *others]):
                self.parts += _flat(part)

    def family(self) -> type[Any]:
        """Return the family that is named last.

        Raises:
            BaconError: A named family is unknown.
        """
        return self._families()[-1]

    def check_methods(self) -> None:
        """Check that the command line names at most one of the package's methods, since they cannot be combined.

        A user's file may extend several methods.

        Raises:
            BaconError: Two methods are given.
        """
        own = [part for part in self.parts if isinstance(part, Layer) and method_of(part)]
        # If a file extends several methods, the last one counts.
        last = {part.given: part for part in own}
        if len({method_of(part) for part in last.values()}) > 1:
            one, other, *_ = last.values()
            raise BaconError(
                f"two methods are given, {one.where} and {other.where}: give one of them, for a method is laid over a "
                "schedule such as mnist/ipc10 and not over another method."
            )

    def check_order(self) -> None:
        """Check that schedules come first (recipes anywhere after them), then methods, then budgets.

        Raises:
            BaconError: One of the package's configurations is given after one that is to be laid over it.
        """
        lowest: dict[str, tuple[int, Layer]] = {}  # of what each configuration before holds
        for part in self.parts:
            if not isinstance(part, Layer) or (level := _level(part)) is None:
                continue
            for given, (above, over) in lowest.items():
                if level < above and part.given != given and not recipe_of(part):
                    raise BaconError(
                        f"{part.where} is given after {over.where}, whose settings it would override: give first "
                        f"--config {part.given}, then --config {over.given}."
                    )
            lowest[part.given] = min(lowest.get(part.given, (level, part)), (level, part), key=lambda found: found[0])

    def _families(self) -> list[type[Any]]:
        """Return the family in effect before the first part, and after each part."""
        found: list[type[Any]] = [DEFAULT]
        for part in self.parts:
            found.append(find_family(part.name, part.origin) if isinstance(part, Choice) else found[-1])
        return found

    def _change(self) -> int:
        """Return the position of the last part that changed the family; 0 if none did."""
        families = self._families()
        changes = (place for place in range(len(self.parts)) if families[place] is not families[place + 1])
        return max(changes, default=0)

    def words(self, options: Sequence[str] | None) -> list[str]:
        """Return the arguments for the parser, with every layer as YAML text.

        If a configuration is given before another family is selected, the settings that this family does not accept
        are dropped from it. Settings meant for another method, such as learning rates, are dropped as well, so that
        only those about the data remain (``config_files.OF_THE_DATA``), unless the family is a subclass of the
        configuration's family.

        Args:
            options: Options of the parser, with dashes. None drops nothing, for a command that builds no family.
        """
        families, change = (self._families(), self._change()) if options is not None else ([], 0)
        words = []
        for place, part in enumerate(self.parts):
            if isinstance(part, str):
                words.append(part)
            elif isinstance(part, Layer):
                settings, model = part.settings, part.settings.get("model")
                if place < change and options is not None and isinstance(model, dict):
                    if not issubclass(families[-1], families[place]):  # the settings are meant for another method
                        model = {key: value for key, value in model.items() if key in OF_THE_DATA}
                    settings = {**settings, "model": _taken(model, "--model", options)}
                elif options is not None and isinstance(model, dict) and is_own(part):
                    # The package's budgets set a network for every method, even for those without a network.
                    of_data = {key: value for key, value in model.items() if key in OF_THE_DATA}
                    rest = {key: value for key, value in model.items() if key not in OF_THE_DATA}
                    settings = {**settings, "model": {**rest, **_taken(of_data, "--model", options)}}
                words += ["--config", quoted(settings)]
        return words

    def origin(self, option: str) -> str:
        """Describe which configuration an option's value comes from.

        Args:
            option: The option with its dashes.

        Returns:
            One sentence; empty if the value comes from the command line, or its origin is unknown.
        """
        keys = option.removeprefix("--").split(".")
        for place, part in reversed(list(enumerate(self.parts))):
            if isinstance(part, str) and re.match(rf"{re.escape(option)}(\.|=|$)", part):
                return ""
            if isinstance(part, Layer) and _holds(part.settings, keys):
                if not part.origin:
                    return ""
                change = self._change()
                chosen = self.parts[change]
                in_model = keys[0] == "model" and place > change
                if in_model and isinstance(chosen, Choice) and chosen.origin != f"'{part.origin}'":
                    what = f"--model {chosen.name}" if chosen.origin == CLASS_PATH else f"--config {chosen.given}"
                    return (
                        f"It stands in {part.where}, which is given after the family was chosen: {FIRST} --config "
                        f"{part.given}, then {what}."
                    )
                return f"It stands in {part.where}."
        return ""

    def typed(self, section: str) -> dict[str, Any]:
        """Return what options set in a section, by themselves and not in a configuration, which commands may share."""
        given = ((name, value) for place in range(len(self.parts)) for name, value in self._typed(place))
        return {name.removeprefix(f"{section}."): value for name, value in given if name.startswith(f"{section}.")}

    def sections(self, name: str) -> list[Mapping[str, Any]]:
        """Return one section of each configuration that has it, of which later ones override earlier ones."""
        found = (part.settings.get(name) for part in self.parts if isinstance(part, Layer))
        return [section for section in found if isinstance(section, Mapping)]

    def section(self, name: str) -> dict[str, Any]:
        """Return one section of all configurations together."""
        return dict(reduce(laid_over, self.sections(name), {}))

    def given(self) -> Iterator[tuple[str, Any]]:
        """Yield every setting as (dotted name, value), with ``init_args`` and similar levels left out of the names."""
        for place, part in enumerate(self.parts):
            yield from _leaves(part.settings, "") if isinstance(part, Layer) else self._typed(place)

    def _typed(self, place: int) -> Iterator[tuple[str, Any]]:
        """Yield the settings of the option at a place, if there is one."""
        part, following = (*self.parts, "")[place : place + 2]
        if isinstance(part, str) and part.startswith("--"):
            name, equals, value = part[2:].partition("=")
            text = value if equals else following if isinstance(following, str) else ""
            yield from _leaves(_value(text), ".".join(key for key in name.split(".") if key not in _ARGUMENTS))


def _level(layer: Layer) -> int | None:
    """Return over how many kinds of the package's configurations a layer is laid; None if it is none of these kinds."""
    if budget_of(layer):
        return 2
    if method_of(layer) or recipe_of(layer):
        return 1
    return 0 if is_own(layer) and "name" in (layer.settings.get("data") or {}) else None


def _typed_ipc(given: Sequence[tuple[str, list[Layer]] | Layer | str]) -> int | None:
    """Return the images per class that an option or settings as text give, unless a later file overrides them.

    It chooses what configurations hold for this number of images, as that of a schedule does.
    """
    asked: Any = None
    for item, following in zip(given, [*given[1:], ""], strict=True):
        if isinstance(item, str):
            name, equals, value = item.partition("=")
            asked = _value(value if equals else str(following)) if name == "--model.ipc" else asked
        else:
            for layer in item[1] if isinstance(item, tuple) else [item]:
                found = dict(_leaves(layer.settings.get("model"), "model")).get("model.ipc")
                asked = asked if found is None else None if layer.origin else found
    return asked if isinstance(asked, int) else None


def _loaded(value: str) -> Any:
    """Interpret the value of ``--model``: settings as text, the path of a file, or the name of a class."""
    if value.lstrip().startswith("{"):
        return parsed(value, "--model")
    return str(Path(value).absolute()) if Path(value).is_file() else value


def _flat(layer: Layer) -> list[Layer | Choice]:
    """Return a layer with flat settings of the model, preceded by the family that it names, if any."""
    model, origin = layer.settings.get("model"), f"'{layer.origin}'" if layer.origin else CLASS_PATH
    if isinstance(model, str) and Path(model).is_file():
        model = read(Path(model), "--model")
    if isinstance(model, str):
        return [Choice(model, origin, layer.given), replace(layer, settings={**layer.settings, "model": {}})]
    if model is None:
        return [layer]
    if not isinstance(model, dict):
        raise BaconError(f"{origin}: model must be settings or the name of a class, got {one_line(model)}.")
    own = dict(model)
    name = own.pop("class_path", None)
    for level in _ARGUMENTS:
        if isinstance(own.get(level), dict):
            own |= own.pop(level)
        elif level in own and own[level] is None:  # from an empty `init_args:`
            del own[level]
    flat = replace(layer, settings={**layer.settings, "model": own})
    if name is None:
        return [flat]
    if not isinstance(name, str):
        raise BaconError(f"{origin}: class_path must be the name of a class, got {one_line(name)}.")
    return [Choice(name, origin, layer.given), flat]


def _taken(settings: dict[str, Any], name: str, options: Sequence[str]) -> dict[str, Any]:
    """Select the settings that correspond to options, or that are within an option for a class or group."""
    kept = {}
    for key, value in settings.items():
        option = f"{name}.{key}"
        parts = [other for other in options if other.startswith(f"{option}.") and not other.endswith(".help")]
        if parts and isinstance(value, dict):
            kept[key] = _taken(value, option, options)
        elif parts or option in options:
            kept[key] = value
    return kept


def _holds(settings: Any, keys: Sequence[str]) -> bool:
    if not keys:
        return True
    if isinstance(settings, list):
        return any(_holds(item, keys) for item in settings)
    if not isinstance(settings, Mapping):
        return False
    within = (settings[level] for level in _ARGUMENTS if isinstance(settings.get(level), Mapping))
    return (keys[0] in settings and _holds(settings[keys[0]], keys[1:])) or any(_holds(one, keys) for one in within)


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, name if key in _ARGUMENTS else f"{name}.{key}".lstrip("."))
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item, name)
    else:
        yield name, value


def _value(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text
