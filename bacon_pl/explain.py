"""Conversion of errors from the parser or from Lightning to one plain sentence."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import inspect
import re
import sys
from collections.abc import Iterable, Sequence

from bacon_pl.augment import Augmentation, Mixing
from bacon_pl.errors import one_line, unknown_name
from bacon_pl.networks import Network
from bacon_pl.objectives import Objective

CHOICES: dict[str, type] = {"network": Network, "objective": Objective, "augment": Augmentation, "mixing": Mixing}

_PLAIN = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "NoneType": "null",
    "list[int]": "a list of whole numbers",
    "list[float]": "a list of numbers",
    "list[str]": "a list of names",
}
_TYPE = re.compile(r"<class '([\w.]+)'>|(list\[\w+\])|Literal\[([^]]*)\]")
_KEY = re.compile(r'Parser key "([\w.]+)"')
_LONGEST = 1000
_FEW = 8  # maximum number of options that are listed
_GIVE_YAML = "give a YAML file such as --print_config writes"


def explain(error: Exception, options: Iterable[str] = (), family: str = "") -> str:
    """Describe what is wrong, where, and what to do.

    Args:
        error: Exception raised by a parser, Lightning or this package.
        options: All options of the command, with dashes.
        family: Name of the class whose arguments are the options of --model, if the command builds one.

    Returns:
        One line. For an unknown name, it suggests the most similar known one.
    """
    text = one_line(error, _LONGEST)
    if isinstance(error, UnicodeDecodeError):
        return f"--config: the file is not text ({text}): {_GIVE_YAML}."
    if not isinstance(error, argparse.ArgumentError):
        return text
    options = list(options)
    for sentence in (_class(text), _option(text, options, family), _group(text, options), _value(text)):
        if sentence:
            return sentence
    if missing := re.search(r"arguments are required: (.*)", text):
        within = f"{_path(text)}." if _path(text) else "--"
        return f"{within}{missing[1]} is missing: give it, as `--help` describes."
    if bare := re.search(r"argument (?:-\w/)?(--\S+): expected one argument", text):
        return f"{bare[1]}, or an option within it, needs a value: give one, as `--help` describes."
    if text.startswith(("Problems parsing config: ", "Unexpected config: ")):
        return f"--config: the file is not YAML with settings ({text.partition(': ')[2].rstrip('.')}): {_GIVE_YAML}."
    where = _path(text)
    if where == "--config":
        return f"{_KEY.sub('--config', text).rstrip('.')}: {_GIVE_YAML}."
    return f"{_KEY.sub(where, text, count=1).rstrip('.')}: `--help` lists what may be given."


def _path(text: str) -> str:
    """Return the option that caused an error; arguments of a class are named within the option of the class."""
    keys = list(dict.fromkeys(_KEY.findall(text)))
    return f"--{'.'.join(keys)}" if keys else ""


def _class(text: str) -> str | None:
    """Explain an unknown class name, or null for a required class."""
    wrong = re.search(r'Parser key "(?:\w+\.)*(\w+)".*(?:dot import path string: (\S+)|Got value: None\b)', text)
    if not wrong or wrong[1] not in CHOICES:
        return None
    subclasses = (c for c in _subclasses(CHOICES[wrong[1]]) if not inspect.isabstract(c))
    known = [c.__name__ for c in subclasses if "Lazy" not in c.__name__ and not c.__name__.startswith("_")]
    if wrong[2] is None:
        names = ", ".join(sorted(known))
        return f"{_path(text)} must be one of {names}, or a class_path such as my_module.MyClass, got null."
    return f"{unknown_name(wrong[1], wrong[2], known)} A class_path such as my_module.MyClass works, too."


def _group(text: str, options: Sequence[str]) -> str | None:
    """Explain a single value that was given for a group of settings."""
    wrong = re.search(r"Unable to load config '([^']*)'", text)
    if not wrong or not (group := _path(text)):
        return None
    within = [option for option in options if option.startswith(f"{group}.") and not option.endswith(".help")]
    names = f"options {', '.join(within)}" if 0 < len(within) <= _FEW else f"options {group}.NAME"
    return (
        f"{group} is a group of settings, and '{wrong[1]}' is neither settings by name nor a YAML file of them: use "
        f"the {names}."
    )


def _option(text: str, options: Sequence[str], family: str) -> str | None:
    """Explain an unknown option."""
    if wrong := re.search(r"unrecognized arguments: (\S+)", text):
        name = wrong[1].partition("=")[0]
    elif wrong := re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", text):
        name = f"--{wrong[1]}.{wrong[2]}"
    elif wrong := re.search(r"(?:Option|Key) '([\w.]+)' is not (?:accepted|expected)", text):
        name = f"{_path(text) or '-'}.{wrong[1]}".replace("-.", "--")
        if classes := re.findall(r"class_path='([\w.]+)'", text):
            return f"unknown option {name}: {classes[-1]} takes no '{wrong[1]}'; `--help` lists the options."
    else:
        return None
    if family and (own := re.match(r"--model\.(\w+)", name)) and own[0] not in options:
        return f"unknown option {own[0]}: {family} takes no '{own[1]}'.{_near(own[0], options)} `--help` lists all."
    return (
        f"unknown {'option' if name.startswith('-') else 'argument'} {name}.{_near(name, options)} `--help` lists all."
    )


def _near(name: str, options: Sequence[str]) -> str:
    """Suggest the most similar option, which is in a section if the unknown option is."""
    near = difflib.get_close_matches(name, [option for option in options if "." in option or "." not in name], n=1)
    return f" Did you mean {near[0]}?" if near else ""


def _value(text: str) -> str | None:
    """Explain a value that does not have the type of the option."""
    union = re.search(r"Subtypes: \[(.*)\] Errors:.*Given value: (.*)$", text)
    plain = re.search(r"Expected an? (.*?)\. Got value: (.*)$", text)
    found = union or plain
    if not found or not (types := list(_TYPE.finditer(found[1]))):
        return None
    names = [value for kind in types if kind[3] for value in re.findall(r"[\w.-]+", kind[3])]
    kinds = [_PLAIN.get(kind[1] or kind[2]) or _instance(kind[1] or "") for kind in types if not kind[3]]
    if "" in kinds:
        return None
    if names:
        kinds.insert(0, f"one of {', '.join(dict.fromkeys(names))}")
    near = difflib.get_close_matches(found[2], names, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    value = found[2].partition(". Got value: ")[0]  # for an argument of a class, the value of the class follows
    return f"{_path(text)} must be {' or '.join(kinds)}, got {value}{hint}."


def _instance(path: str) -> str:
    """Describe the values that are allowed for an option of a class type."""
    module, _, name = path.rpartition(".")
    found = getattr(sys.modules.get(module), name, None)
    if dataclasses.is_dataclass(found):
        return f"settings by name ({', '.join(field.name for field in dataclasses.fields(found) if field.init)})"
    return f"the class_path of a {name}" if module else ""


def _subclasses(base: type) -> set[type]:
    direct: list[type] = base.__subclasses__()
    return set(direct).union(*map(_subclasses, direct))
