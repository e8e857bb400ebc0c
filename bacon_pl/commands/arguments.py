"""A command line before it is parsed: its configurations as layers, and the family of methods that it asks for.

The parser is built for one family, so that its help lists that family's options alone. So the family has to be found
first, in the options and in every configuration, each of which may name another one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from bacon_pl.commands.families import DEFAULT, find_family
from bacon_pl.config_files import OF_THE_DATA, Layer, is_own, laid_over, layers, method_of, parsed, read
from bacon_pl.errors import BaconError, one_line

CLASS_PATH = "--model.class_path"
FIRST = "give first"
"""What the place of a setting says where the order of the command line is all that is wrong."""
_VALUED = ("--config", "-c", "--model", CLASS_PATH)
_ARGUMENTS = ("init_args", "dict_kwargs")


@dataclass(frozen=True)
class Choice:
    """A family that an option or a configuration names.

    Attributes:
        name: Class name or class path.
        origin: Where it stands, for messages.
        given: The configuration by which the user gave it, if it is in one.
    """

    name: str
    origin: str
    given: str = ""


class CommandLine:
    """The arguments of ``fit`` or ``eval``, in their order.

    The flat form of a model's settings, ``model: {class_path: MyFamily, ipc: 10}``, and jsonargparse's own, with
    ``init_args``, are both read; what is handed to the parser is flat and names no class.

    Args:
        args: As the user gave them.

    Raises:
        BaconError: A configuration is missing or is no YAML of settings.
    """

    def __init__(self, args: Sequence[str]) -> None:
        self.parts: list[Layer | Choice | str] = []
        rest = list(args)
        while rest:
            word = rest.pop(0)
            name, equals, value = word.partition("=")
            if word.startswith("-c") and word != "-c":  # the value may follow without a space
                name, equals, value = "-c", "=", word[2:].removeprefix("=")
            if name not in _VALUED or not (equals or (rest and not rest[0].startswith("--"))):
                self.parts.append(re.sub(r"^--model\.(init_args|dict_kwargs)\.", "--model.", word))
                continue
            value = value if equals else rest.pop(0)
            if name in ("--config", "-c"):
                for layer in layers(value):
                    self.parts += _flat(replace(layer, given=value if layer.origin else ""))
            else:
                self.parts += _flat(
                    Layer("", {"model": _loaded(value) if name == "--model" else {"class_path": value}})
                )

    def family(self) -> type[Any]:
        """The family that is asked for last.

        Raises:
            BaconError: One that is asked for is unknown.
        """
        return self._families()[-1]

    def check_methods(self) -> None:
        """Refuse two of the package's methods one over the other, which would make a mixture that has no name.

        What one file extends is its author's own affair.

        Raises:
            BaconError: There are two.
        """
        own = [part for part in self.parts if isinstance(part, Layer) and method_of(part)]
        # A file's own method is the last of those that it extends.
        last = {part.given: part for part in own}
        if len({method_of(part) for part in last.values()}) > 1:
            one, other, *_ = last.values()
            raise BaconError(
                f"two methods are given, {one.where} and {other.where}: give one of them, for a method is laid over a "
                "schedule such as mnist/ipc10 and not over another method."
            )

    def _families(self) -> list[type[Any]]:
        """The family in effect before all parts, and after each."""
        found: list[type[Any]] = [DEFAULT]
        for part in self.parts:
            found.append(find_family(part.name, part.origin) if isinstance(part, Choice) else found[-1])
        return found

    def _change(self) -> int:
        """The place of the part that changed the family last; 0 if none did."""
        families = self._families()
        changes = (place for place in range(len(self.parts)) if families[place] is not families[place + 1])
        return max(changes, default=0)

    def words(self, options: Sequence[str] | None) -> list[str]:
        """The arguments for the parser: every layer as YAML text.

        Args:
            options: Those of the parser, with dashes. Configurations that were given before another family was chosen
                lose the settings that it does not take, and those that were meant for another method, such as learning
                rates: what they say of the data alone is kept (``config_files.OF_THE_DATA``), unless the family is a
                subclass of theirs. None drops nothing, for a command that builds no family.
        """
        families, change = (self._families(), self._change()) if options is not None else ([], 0)
        words = []
        for place, part in enumerate(self.parts):
            if isinstance(part, str):
                words.append(part)
            elif isinstance(part, Layer):
                settings, model = part.settings, part.settings.get("model")
                if place < change and options is not None and isinstance(model, dict):
                    if not issubclass(families[-1], families[place]):  # they were meant for another method
                        model = {key: value for key, value in model.items() if key in OF_THE_DATA}
                    settings = {**settings, "model": _taken(model, "--model", options)}
                elif options is not None and isinstance(model, dict) and is_own(part):
                    # A budget of the package's says a network for every method, whether it has one or not.
                    of_data = {key: value for key, value in model.items() if key in OF_THE_DATA}
                    rest = {key: value for key, value in model.items() if key not in OF_THE_DATA}
                    settings = {**settings, "model": {**rest, **_taken(of_data, "--model", options)}}
                words += ["--config", as_text(settings)]
        return words

    def origin(self, option: str) -> str:
        """Say which configuration an option's value comes from; empty where that is the command line, or unknown.

        Args:
            option: With its dashes.
        """
        keys = option.removeprefix("--").split(".")
        for place, part in reversed(list(enumerate(self.parts))):
            if isinstance(part, str) and re.match(rf"{re.escape(option)}(\.|=|$)", part):
                return ""
            if isinstance(part, Layer) and _holds(part.settings, keys) and part.origin:
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

    def section(self, name: str) -> dict[str, Any]:
        """What the configurations say under one name, later ones laid over those before."""
        found: dict[str, Any] = {}
        for part in self.parts:
            if isinstance(part, Layer) and isinstance(part.settings.get(name), Mapping):
                found = dict(laid_over(found, part.settings[name]))
        return found

    def given(self) -> Iterator[tuple[str, Any]]:
        """Every single setting as (dotted name, value), without the levels that only name a class's arguments."""
        for part, following in zip(self.parts, [*self.parts[1:], ""], strict=True):
            if isinstance(part, Layer):
                yield from _leaves(part.settings, "")
            elif isinstance(part, str) and part.startswith("--"):
                name, equals, value = part[2:].partition("=")
                text = value if equals else following if isinstance(following, str) else ""
                yield from _leaves(_value(text), ".".join(key for key in name.split(".") if key not in _ARGUMENTS))


def as_text(settings: Mapping[str, Any]) -> str:
    """Settings as YAML that every reader takes for the same values: text is quoted."""
    return yaml.dump(dict(settings), Dumper=_Quoting, default_flow_style=True, allow_unicode=True, sort_keys=False)


class _Quoting(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


_Quoting.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


def _loaded(value: str) -> Any:
    """The value of ``--model``: settings as text or in a file, else the name of a class."""
    if value.lstrip().startswith("{"):
        return parsed(value, "--model")
    return str(Path(value).absolute()) if Path(value).is_file() else value


def _flat(layer: Layer) -> list[Layer | Choice]:
    """A layer with its model's settings in flat form, and before it the family that it names."""
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
        elif level in own and own[level] is None:  # what an empty `init_args:` says
            del own[level]
    flat = replace(layer, settings={**layer.settings, "model": own})
    if name is None:
        return [flat]
    if not isinstance(name, str):
        raise BaconError(f"{origin}: class_path must be the name of a class, got {one_line(name)}.")
    return [Choice(name, origin, layer.given), flat]


def _taken(settings: dict[str, Any], name: str, options: Sequence[str]) -> dict[str, Any]:
    """The settings that are options, or lie within an option that takes a class or a group of them."""
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
