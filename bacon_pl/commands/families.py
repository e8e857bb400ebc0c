"""Which family of methods a command line is about: the LightningModule that ``bacon fit`` builds."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from bacon_pl.commands.renamed import new_value
from bacon_pl.configured import class_path
from bacon_pl.distillers import Distiller, DistributionMatching
from bacon_pl.errors import BaconError, one_line, unknown_name

BASE = Distiller  # the class that every family is a subclass of
DEFAULT = DistributionMatching  # the family that is meant where none is named

_HINT = "A class_path such as my_module.MyClass works, too."


def known() -> dict[str, type[Any]]:
    """The families that are imported and can be built, by class name."""
    found: dict[str, type[Any]] = {}
    waiting: list[type[Any]] = [BASE]
    while waiting:
        family = waiting.pop(0)
        waiting += family.__subclasses__()
        if not inspect.isabstract(family) and not family.__name__.startswith("_"):
            found.setdefault(family.__name__, family)
    return found


def find_family(name: str, option: str = "--model.class_path") -> type[Any]:
    """Find a family by its class name, or by module and class.

    Args:
        name: As the user gave it.
        option: Where the user gave it, for the message.

    Raises:
        BaconError: There is none of that name, it cannot be imported, or it is no family.
    """
    families = known()
    if name in families:
        return families[name]
    module, _, attribute = name.rpartition(".")
    if (new := new_value("model", name)) in families:
        raise BaconError(f"{option}: '{name}' has another name today: write {new}.")
    if not module:
        raise BaconError(f"{option}: {unknown_name('family of methods', name, families)} {_HINT}")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a module of the user's may raise anything while it is imported
        raise BaconError(
            f"{option}: cannot import '{one_line(name)}' ({type(error).__name__}: {one_line(error).rstrip('.')}): give "
            f"a class that can be imported from here, or one of {', '.join(sorted(families))}."
        ) from error
    if not (inspect.isclass(found) and issubclass(found, BASE)):
        raise BaconError(
            f"{option}: '{one_line(name)}' is no family of methods: give a subclass of {class_path(BASE)}."
        )
    if inspect.isabstract(found):
        missing = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
        raise BaconError(
            f"{option}: '{one_line(name)}' cannot be built, for it leaves {missing} undefined: give a subclass that "
            "defines what is missing."
        )
    return found
