"""The families of methods: the classes of LightningModules that ``bacon fit`` can build."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from bacon_pl.commands.renamed import new_value
from bacon_pl.configured import class_path
from bacon_pl.distillers import Distiller, DistributionMatching
from bacon_pl.errors import BaconError, one_line, unknown_name

BASE = Distiller  # the base class of all families
DEFAULT = DistributionMatching  # the family used if none is named

_HINT = "A class_path such as my_module.MyClass works, too."


def known() -> dict[str, type[Any]]:
    """Return the imported families that are not abstract, by class name."""
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
        name: Name as given by the user.
        option: Option or file that contains the name, for the message.

    Returns:
        The class.

    Raises:
        BaconError: There is no family with this name, or the class cannot be imported or is not a family.
    """
    families = known()
    if name in families:
        return families[name]
    module, _, attribute = name.rpartition(".")
    if (new := new_value("model", name)) in families:
        raise BaconError(f"{option}: '{name}' has been renamed: write {new}.")
    if not module:
        raise BaconError(f"{option}: {unknown_name('family of methods', name, families)} {_HINT}")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # importing a user's module may raise any exception
        raise BaconError(
            f"{option}: cannot import '{one_line(name)}' ({type(error).__name__}: {one_line(error).rstrip('.')}): give "
            f"a class that can be imported from here, or one of {', '.join(sorted(families))}."
        ) from error
    if not (inspect.isclass(found) and issubclass(found, BASE)):
        raise BaconError(
            f"{option}: '{one_line(name)}' is not a family of methods: give a subclass of {class_path(BASE)}."
        )
    if inspect.isabstract(found):
        missing = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
        raise BaconError(
            f"{option}: '{one_line(name)}' cannot be built, for it leaves {missing} undefined: give a subclass that "
            "defines what is missing."
        )
    return found
