"""Names from files as text in pictures: in any script that the system has fonts for, escaped where it has none."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from matplotlib.font_manager import FontProperties, fontManager, get_font

# Matplotlib's own fonts for formulas, whose letters stand at other letters' places, and the one of empty boxes.
_NO_TEXT = ("cm", "STIXNon", "STIXSize", "Last Resort", "DejaVu Math", "DejaVu Sans Display", "DejaVu Serif Display")
_BOOK = (400, "normal", "regular", "book")
_ASCII = 128


@dataclass(frozen=True)
class Lettering:
    """Names as they can be drawn.

    Attributes:
        texts: One line each, of characters that the fonts have.
        families: The fonts' families, those of matplotlib's settings first.
    """

    texts: tuple[str, ...]
    families: tuple[str, ...]


def lettering(names: Iterable[str], longest: int) -> Lettering:
    r"""Choose fonts for names, so that matplotlib misses no letter.

    A character that no font of the system has is written as Python would escape it (``\u5496``). Controls become
    ``?``, and joiners and variation selectors, which only change the look of others, are left out where no font has
    them.

    Args:
        names: As they stand in files.
        longest: Most characters of a text; what is too long ends in ``…``.
    """
    names = list(names)
    families = tuple(FontProperties().get_family())
    missing = _missing({ord(c) for name in names for c in name if c.isprintable()} | _joiners(names), families)
    added, missing = _fonts_for(missing, families)
    return Lettering(tuple(_text(name, missing, longest) for name in names), families + added)


def _joiners(names: Iterable[str]) -> set[int]:
    return {ord(c) for name in names for c in name if _only_shapes(c)}


def _only_shapes(character: str) -> bool:
    """Whether a character is not seen itself: zero-width joiners, and selectors of a variant."""
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
    """Those characters that none of some families has."""
    codes = {code for code in codes if code >= _ASCII}
    for family in families:
        if not codes:
            break
        codes -= _had(codes, family)
    return codes


def _had(codes: set[int], family: str) -> set[int]:
    """Those characters that a family has."""
    try:
        font = get_font(fontManager.findfont(FontProperties(family=[family]), fallback_to_default=False))
        return {code for code in codes if font.scalable and font.get_char_index(code)}
    except (OSError, RuntimeError, ValueError):  # a file that is gone or damaged, or of a kind that cannot be drawn
        return set()


def _fonts_for(missing: set[int], families: Sequence[str]) -> tuple[tuple[str, ...], set[int]]:
    """Look through the system's fonts for characters.

    Returns:
        Families to add, that with most of the characters first, and the characters that none of them has.
    """
    added: list[str] = []
    if not missing:
        return (), missing
    # Upright letters of common weight: for others matplotlib would say that it had looked for these.
    others = {e.name for e in fontManager.ttflist if (e.style, e.stretch) == ("normal", "normal") and e.weight in _BOOK}
    has = {family: _had(missing, family) for family in others - set(families) if not family.startswith(_NO_TEXT)}
    while missing and has:
        # Of families that have as many, an upright one without serifs goes with the rest of the picture.
        best = min(has, key=lambda family: (-len(has[family] & missing), "Sans" not in family, family))
        if not has[best] & missing:
            break
        missing = missing - has[best]
        added.append(best)
    return tuple(added), missing
