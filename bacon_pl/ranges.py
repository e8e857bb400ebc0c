"""Checks of numbers that users give: one sentence for each range, whatever the number is for.

Each function takes the beginning of the names of numbers, such as ``"--model."``, and the numbers by name. Where None
stands for a default, :func:`given` leaves it out.
"""

from __future__ import annotations

import math
from numbers import Integral, Real

from bacon_pl.errors import BaconError


def given(**values: object) -> dict[str, object]:
    """Return the numbers that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def whole(prefix: str, least: int = 1, /, **values: object) -> None:
    """Check that numbers are whole and at least ``least``.

    Raises:
        BaconError: One is not.
    """
    for name, value in values.items():
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise BaconError(f"{prefix}{name} must be a whole number, got {value!r}.")
        if int(value) < least:
            raise BaconError(f"{prefix}{name} must be at least {least}, got {value}.")


def positive(prefix: str, /, **values: object) -> None:
    """Check that numbers are above 0 and finite.

    Raises:
        BaconError: One is not.
    """
    for name, value in _numbers(prefix, values):
        if not (value > 0 and math.isfinite(value)):
            raise BaconError(f"{prefix}{name} must be positive and finite, got {value}.")


def not_negative(prefix: str, /, **values: object) -> None:
    """Check that numbers are not below 0, and finite.

    Raises:
        BaconError: One is not.
    """
    for name, value in _numbers(prefix, values):
        if not (value >= 0 and math.isfinite(value)):
            raise BaconError(f"{prefix}{name} must be zero or positive and finite, got {value}.")


def below_one(prefix: str, /, **values: object) -> None:
    """Check that numbers are in [0, 1).

    Raises:
        BaconError: One is not.
    """
    for name, value in _numbers(prefix, values):
        if not 0 <= value < 1:
            raise BaconError(f"{prefix}{name} must be in [0, 1), got {value}.")


def share(prefix: str, /, **values: object) -> None:
    """Check that numbers are in [0, 1].

    Raises:
        BaconError: One is not.
    """
    for name, value in _numbers(prefix, values):
        if not 0 <= value <= 1:
            raise BaconError(f"{prefix}{name} must be in [0, 1], got {value}.")


def _numbers(prefix: str, values: dict[str, object]) -> list[tuple[str, float]]:
    for name, value in values.items():
        if not isinstance(value, Real) or isinstance(value, bool):
            raise BaconError(f"{prefix}{name} must be a number, got {value!r}.")
    return list(values.items())  # type: ignore[arg-type]
