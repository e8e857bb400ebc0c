"""Whether a method's knobs can be tuned, told before the first trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bacon_pl import config_files
from bacon_pl.errors import BaconError, one_line
from bacon_pl.partition import allowed_factors
from bacon_pl.settings_text import value_at
from bacon_pl.table.tuned import HISTORY
from bacon_pl.tuning.knobs import SECTION, Knob
from bacon_pl.tuning.trials import SIZES

FACTOR = "model.factor"
HEADER = "# trial  seconds  accuracy  settings"
"""The line above the trials in a result."""


_SUFFIXES = (".yaml", ".yml")


def check_out(out: Path, below: Sequence[config_files.Layer]) -> None:
    """Check that a result can be written, and replaces nothing but a result.

    Args:
        out: The file.
        below: The method's files, which the result extends.

    Raises:
        BaconError: It is no name of a configuration, or that of a folder or of a file which is no result.
    """
    if out.suffix not in _SUFFIXES:
        raise BaconError(f"--out is the configuration that is written: give a name that ends in .yaml, not '{out}'.")
    if out.is_dir():
        raise BaconError(f"--out '{out}' is a folder: give a file in it, such as '{out / 'tuned.yaml'}'.")
    if any(layer.path is not None and layer.path.resolve() == out.resolve() for layer in below):
        raise BaconError(f"--out '{out}' would replace the method, which the result extends: give another name.")
    # Earlier versions wrote the history as comments alone.
    if out.exists() and HISTORY not in config_files.read(out, "--out") and HEADER not in out.read_text("utf-8"):
        raise BaconError(f"--out '{out}' is no result of bacon tune, and would be replaced: give another name.")


def fitting(knobs: Sequence[Knob], size: tuple[int, int] | None) -> list[Knob]:
    """Leave out the numbers of tiles for which a dataset's images are too small.

    Args:
        knobs: The knobs.
        size: Height and width of the images in pixels; None if they are unknown.
    """
    if size is None:
        return list(knobs)
    allowed = allowed_factors(size)
    return [
        replace(knob, choices=tuple(one for one in knob.choices if one in allowed))
        if knob.name == FACTOR and knob.choices
        else knob
        for knob in knobs
    ]


def own_places(knobs: Sequence[Knob], settings: Mapping[str, Any], budget: Path, run: Sequence[Any]) -> dict[str, Any]:
    """Check that knobs can be tuned, and return the method's own settings.

    Args:
        knobs: The knobs.
        settings: The method's resolved settings by section, without those that change results by rounding at most.
        budget: The budget's file.
        run: Dataset, images per class and names of the method and the budgets, which the file's ``for`` may name.

    Returns:
        The method's own settings by the names of the knobs, as Optuna calls them.

    Raises:
        BaconError: A knob changes no result, trials or the budget would change it back, or the method's own value is
            none that it may have.
    """
    layers = config_files.layers(str(budget), "--budget")
    above = [part for layer in layers for part in config_files.for_data(layer, *run)]
    first = {}
    for knob in knobs:
        section, name, *_ = knob.name.split(".")
        if section == "data" and name not in SIZES:
            raise BaconError(
                f"`{SECTION}` names {knob.name}, but all trials have the same data: of their settings only "
                f"{' and '.join(f'{section}.{size}' for size in SIZES)} can be tuned."
            )
        if name not in settings[section]:
            raise BaconError(
                f"`{SECTION}` names {knob.name}, but the method has no setting '{section}.{name}' that changes its "
                "results by more than rounding: leave it out."
            )
        fixed = [value for part in above if (value := value_at(part.settings, knob.name)) is not None]
        if fixed:
            raise BaconError(
                f"`{SECTION}` names {knob.name}, but runs with the budget '{budget.stem}' have "
                f"{one_line(fixed[-1], 80)} whatever is chosen: leave one of the two out."
            )
        value = value_at(settings, knob.name)
        if isinstance(value, int) and not isinstance(value, bool) and not knob.choices:
            raise BaconError(f"`{SECTION}`: {knob.name} is a whole number, {value}: give it choices, not a range.")
        if (place := knob.place(value)) is None:
            raise BaconError(
                f"the method's own {knob.name}, {value}, is none of the values that `{SECTION}` gives it: widen its "
                "range, for the first trial has the method's own settings."
            )
        first[knob.name] = place
    return first
