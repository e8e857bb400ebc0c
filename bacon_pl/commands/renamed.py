"""Options and names of earlier versions, which users may have in YAML files, with their current names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

OPTIONS = {
    "model.objective.lam": "model.objective.tv_weight",
    "model.bound.lam": "model.bound.tv_weight",
    "bound_settings.lam": "bound_settings.tv_weight",
    "model.ce_weight": "model.cross_entropy.weight",
    "model.ce_accuracy": "model.cross_entropy.accuracy",
    "data.seed": "seed_everything",
    "model.seed": "seed_everything",
}
"""New names of options by old name. For old names of three or more words, other words may precede the last one."""

VALUES = {
    ("objective", "Bayes"): "BaconObjective",
    ("baselines", "k_centre"): "k_center",
    ("model", "DistillModule"): "DistributionMatching",
}
"""New values by (word of the option's name, old value); a class is identified by its name, without its module."""

# The parser ignores these in files, since --seed_everything sets them; they are never options of their own.
_UNHEARD = ("data.seed", "model.seed")


def new_option(name: str, exists: Callable[[str], bool]) -> str | None:
    """Return the new name of an option, or None if it has not been renamed.

    Args:
        name: Dotted name of the option without dashes and without ``init_args``.
        exists: Function that returns whether an option with a given name exists.
    """
    for old, new in OPTIONS.items():
        start, _, last = old.rpartition(".")
        within = "." in start and name.startswith(f"{start}.") and name.endswith(f".{last}")
        if (name == old or within) and exists(new):
            # The words in between are kept, as in model.objective.objectives.lam.
            return new if name == old else f"{name.removesuffix(last)}{new.rpartition('.')[2]}"
    return None


def new_value(name: str, value: Any) -> str | None:
    """Return the new name of an option's value, such as a class, or None if it has not been renamed.

    Args:
        name: Dotted name of the option.
        value: The given value.
    """
    words = name.split(".")
    module, _, last = str(value).rpartition(".")
    if module and not module.startswith("bacon_pl"):  # a user's own class with the same name
        return None
    return next((new for (word, old), new in VALUES.items() if word in words and old == last), None)


def sentence(given: Iterable[tuple[str, Any]], refused: str | None, exists: Callable[[str], bool]) -> str | None:
    """Describe the current name of an old option or value that caused an error.

    A name counts as old only if it is rejected, since a user's own objective may well have an argument ``lam``.

    Args:
        given: Every setting as (dotted name, value).
        refused: Error message of the parser; None if it accepted the settings.
        exists: Function that returns whether an option with a given dotted name exists.

    Returns:
        One sentence, or None if no old name is the cause.
    """
    for name, value in given:
        if refused is None and name not in _UNHEARD:
            continue
        if (new := new_option(name, exists)) and (refused is None or name.rpartition(".")[2] in refused):
            return f"the option --{name} has been renamed: write --{new}."
        if refused is not None and (new := new_value(name, value)) and str(value) in refused:
            return f"--{name}: '{value}' has been renamed: write {new}."
    return None
