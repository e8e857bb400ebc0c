"""The words of ``bacon table``: its own options, those for every run, and lists in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bacon_pl.errors import BaconError
from bacon_pl.settings_text import names_in

# Sections of the settings of fit and eval. Their options on the command line are passed to every run.
SECTIONS = {
    "data": ("fit", "eval"),
    "trainer": ("fit", "eval"),
    "config": ("fit", "eval"),
    "model": ("fit",),
    "validation": ("fit",),
    "checkpoint": ("fit",),
    "image_grid": ("fit",),
    "evaluation": ("eval",),
}


def split(args: Sequence[str]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Separate the table's own options from those for every run, given as (section, [option, value])."""
    own: list[str] = []
    others: list[tuple[str, list[str]]] = []
    rest = list(args)
    while rest:
        word = rest.pop(0)
        section = word[2:].partition("=")[0].partition(".")[0] if word.startswith("--") else ""
        if section not in SECTIONS or ("." not in word and section not in ("config", "model")):
            own.append(word)
            continue
        parts = [word]
        if "=" not in word:
            if not rest:
                raise BaconError(f"{word} needs a value.")
            parts.append(rest.pop(0))
        others.append((section, parts))
    return own, others


def words_of(given: Any, option: str) -> list[str]:
    """Return the names in a list or in text (see :func:`~bacon_pl.settings_text.names_in`).

    Raises:
        BaconError: There is none.
    """
    words = names_in(given)
    if not words:
        raise BaconError(f"{option} names nothing: give names with commas between them.")
    return words


def whole_numbers(given: Any) -> list[int]:
    """Return the numbers of ``--ipcs`` without repeats.

    Raises:
        BaconError: They are no whole numbers from 1.
    """
    words = [str(given)] if isinstance(given, int) else given.split(",") if isinstance(given, str) else given
    try:
        numbers = list(dict.fromkeys(int(word) for word in words))
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise BaconError(f"--ipcs must be whole numbers from 1 with commas between them, got '{given}'.")
    return numbers


def without_comments(file: Path) -> str:
    """Return the lines of a YAML file that say something."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if line.strip() and not line.lstrip().startswith("#"))
