"""Text of arbitrary names in figures, in any script for which the system has fonts, and escaped otherwise."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from matplotlib.font_manager import FontProperties, fontManager, get_font

# Matplotlib's fonts for formulas, in which characters have other codes, and its font of placeholder boxes.
_NO_TEXT = ("cm", "STIXNon", "STIXSize", "Last Resort", "DejaVu Math", "DejaVu Sans Display", "DejaVu Serif Display")
_BOOK = (400, "normal", "regular", "book")
_ASCII = 128


@dataclass(frozen=True)
class Lettering:
    """Names in a form that can be drawn.

    Attributes:
        texts: One line per name, of characters that the fonts contain.
        families: Font families, with those of matplotlib's settings first.
    """

    texts: tuple[str, ...]
    families: tuple[str, ...]


def lettering(names: Iterable[str], longest: int) -> Lettering:
    r"""Choose fonts that contain all characters of the given names.

    Characters that are in no font of the system are escaped in Python's notation (``\u5496``). Control characters are
    replaced by ``?``. Joiners and variation selectors, which only change the look of other characters, are removed if
    they are in no font.

    Args:
        names: Names as found in files.
        longest: Maximum number of characters per text; longer texts are cut off and end with ``…``.

    Returns:
        The texts and the font families.
    """
    names = list(names)
    families = tuple(FontProperties().get_family())
    missing = _missing({ord(c) for name in names for c in name if c.isprintable()} | _joiners(names), families)
    added, missing = _fonts_for(missing, families)
    return Lettering(tuple(_text(name, missing, longest) for name in names), families + added)


def _joiners(names: Iterable[str]) -> set[int]:
    return {ord(c) for name in names for c in name if _only_shapes(c)}


def _only_shapes(character: str) -> bool:
    """Return whether a character is invisible by itself: a zero-width joiner or a variation selector."""
    code = ord(character)
    return code in (0x200C, 0x200D) or 0xFE00 <= code <= 0xFE0F or 0xE0100 <= code <= 0xE01EF


def _text(name: str, missing: set[int], longest: int) -> str:
    parts: list[str] = []
    length = 0
    for character in name:
        if ord(character) not in missing:
            part = character if character.isprintable() or _only_shapes(character) else "?"
        else:
            part = "" if _only_shapes(character) else character.encode("unicode_escape").decode()
        parts.append(part)
        length += len(part)
        if length > longest:
            break
    if length > longest:
        while length > longest - 1 or (parts and unicodedata.combining(parts[-1][-1:] or "a")):
            length -= len(parts.pop())
        parts.append("…")
    return "".join(parts)


def _missing(codes: set[int], families: Sequence[str]) -> set[int]:
    """Return the characters that are in none of the given families."""
    codes = {code for code in codes if code >= _ASCII}
    for family in families:
        if not codes:
            break
        codes -= _had(codes, family)
    return codes


def _had(codes: set[int], family: str) -> set[int]:
    """Return the characters that are in a family."""
    try:
        font = get_font(fontManager.findfont(FontProperties(family=[family]), fallback_to_default=False))
        return {code for code in codes if font.scalable and font.get_char_index(code)}
    except (OSError, RuntimeError, ValueError):  # the file is missing, damaged or not supported
        return set()


def _fonts_for(missing: set[int], families: Sequence[str]) -> tuple[tuple[str, ...], set[int]]:
    """Search the fonts of the system for missing characters.

    Returns:
        Families to add, the one with the most characters first, and the characters that are in none of them.
    """
    added: list[str] = []
    if not missing:
        return (), missing
    # Only upright fonts of regular weight, since matplotlib would print warnings for others.
    others = {e.name for e in fontManager.ttflist if (e.style, e.stretch) == ("normal", "normal") and e.weight in _BOOK}
    has = {family: _had(missing, family) for family in others - set(families) if not family.startswith(_NO_TEXT)}
    while missing and has:
        # Among families with equally many characters, prefer sans-serif ones, which match the rest of the figure.
        best = min(has, key=lambda family: (-len(has[family] & missing), "Sans" not in family, family))
        if not has[best] & missing:
            break
        missing = missing - has[best]
        added.append(best)
    return tuple(added), missing
