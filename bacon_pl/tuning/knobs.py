"""What may be tuned of a method: settings by name, each with the values that it may take."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bacon_pl.errors import BaconError, one_line
from bacon_pl.table.plan import KNOBS

if TYPE_CHECKING:
    from optuna import Trial

SECTION = KNOBS
"""The section of a configuration that names the knobs."""

_FORM = (
    "give each setting of `tune` {low: NUMBER, high: NUMBER, log: true} or {choices: [...]}, as in model.lr: {low: "
    "0.05, high: 1.0, log: true}"
)


@dataclass(frozen=True)
class Knob:
    """A setting and its values: a range of numbers, or a list of choices.

    Attributes:
        name: Dotted name of the setting, such as ``model.lr``.
        low: Least value of a range.
        high: Largest value.
        log: Whether ratios count, not differences.
        choices: Values of a list; empty for a range.
    """

    name: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[Any, ...] = ()

    def suggest(self, trial: Trial) -> Any:
        """The setting's value in a trial."""
        if self.choices:
            return self.choices[trial.suggest_int(self.name, 0, len(self.choices) - 1)]
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)

    def place(self, value: Any) -> float | int | None:
        """What Optuna calls a value of the setting; None if the setting cannot take it."""
        if self.choices:
            return self.choices.index(value) if value in self.choices else None
        usable = isinstance(value, (int, float)) and self.low <= value <= self.high
        return float(value) if usable else None

    def value(self, place: float) -> Any:
        """The setting's value from what Optuna calls it."""
        return self.choices[int(place)] if self.choices else float(place)


def read_knobs(given: Any, origin: str) -> list[Knob]:
    """Read the section ``tune`` of a configuration.

    Args:
        given: What stands there.
        origin: Where, for messages.

    Raises:
        BaconError: There are no knobs, or one is malformed.
    """
    if not isinstance(given, Mapping) or not given:
        raise BaconError(f"{origin} names nothing to tune: {_FORM}.")
    return [_knob(str(name), value, origin) for name, value in given.items()]


def _knob(name: str, given: Any, origin: str) -> Knob:
    wrong = BaconError(f"`{SECTION}` in {origin}: '{name}' is {one_line(given, 80)}; {_FORM}.")
    if not isinstance(given, Mapping) or not name.startswith(("model.", "data.")):
        raise wrong
    if set(given) == {"choices"} and isinstance(given["choices"], list) and len(given["choices"]) > 1:
        return Knob(name, choices=tuple(given["choices"]))
    if not {"low", "high"} <= set(given) <= {"low", "high", "log"}:
        raise wrong
    low, high, log = given["low"], given["high"], given.get("log", False)
    numbers = all(isinstance(n, (int, float)) and not isinstance(n, bool) and math.isfinite(n) for n in (low, high))
    if not (numbers and isinstance(log, bool) and low < high and (low > 0 or not log)):
        raise wrong
    return Knob(name, float(low), float(high), log)
