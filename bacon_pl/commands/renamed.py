"""Options and names of earlier versions, which somebody may have in a YAML file: what each is called today."""

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
"""Old name of an option → new one; between its last word and two words or more before it, there may be others."""

VALUES = {
    ("objective", "Bayes"): "BaconObjective",
    ("baselines", "k_centre"): "k_center",
    ("model", "DistillModule"): "DistributionMatching",
}
"""(Word of the option's name, old value) → new value; a class counts by its name, wherever it lay."""

# The parser takes no notice of these in a file, for --seed_everything sets them; they never are options of their own.
_UNHEARD = ("data.seed", "model.seed")


def new_option(name: str, exists: Callable[[str], bool]) -> str | None:
    """The new name of an option.

    Args:
        name: Its dotted name without dashes, and without ``init_args``.
        exists: Whether there is an option of that name today.
    """
    for old, new in OPTIONS.items():
        start, _, last = old.rpartition(".")
        within = "." in start and name.startswith(f"{start}.") and name.endswith(f".{last}")
        if (name == old or within) and exists(new):
            # What lies between stays as it is: model.objective.objectives.lam.
            return new if name == old else f"{name.removesuffix(last)}{new.rpartition('.')[2]}"
    return None


def new_value(name: str, value: Any) -> str | None:
    """The new name of what is chosen by an option, such as a class.

    Args:
        name: The option's dotted name.
        value: What was given.
    """
    words = name.split(".")
    module, _, last = str(value).rpartition(".")
    if module and not module.startswith("bacon_pl"):  # somebody's own class of that name
        return None
    return next((new for (word, old), new in VALUES.items() if word in words and old == last), None)


def sentence(given: Iterable[tuple[str, Any]], refused: str | None, exists: Callable[[str], bool]) -> str | None:
    """Say what an old name is called today.

    A name is old only where it is refused: somebody's own objective may well take a ``lam``.

    Args:
        given: Every setting as (dotted name, value).
        refused: What the parser says of the settings; None where it has not refused them.
        exists: Whether there is an option of some dotted name today.

    Returns:
        One sentence, or None if no old name is the reason.
    """
    for name, value in given:
        if refused is None and name not in _UNHEARD:
            continue
        if (new := new_option(name, exists)) and (refused is None or name.rpartition(".")[2] in refused):
            return f"the option --{name} has another name today: write --{new}."
        if refused is not None and (new := new_value(name, value)) and str(value) in refused:
            return f"--{name}: '{value}' has another name today: write {new}."
    return None
