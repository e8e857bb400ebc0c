"""Conversion of arbitrary class names to safe folder names."""

from __future__ import annotations

import unicodedata

# Names that Windows reserves for devices, with any extension.
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(10))}


def folder_names(class_names: tuple[str, ...]) -> list[str]:
    """Turn class names into folder names that sort in label order.

    Args:
        class_names: Any strings, in label order.

    Returns:
        One plain path component per class, in ascending order. The names differ even if case is ignored.
    """
    names = [_safe_component(name) for name in class_names]
    folded = {name.casefold() for name in names}
    if len(folded) == len(names) and names == sorted(names):
        return names
    digits = len(str(len(names) - 1))
    return [f"{index:0{digits}d}_{name}" for index, name in enumerate(names)]


def _safe_component(name: str) -> str:
    """Convert a string to a path component that is not empty, hidden, reserved, ``..`` or longer than 120 bytes."""
    # Normalize first, since this turns some harmless-looking characters into slashes and dots.
    plain = unicodedata.normalize("NFKC", name)
    plain = "".join(c if c.isalnum() or c in "-_. " else "_" for c in plain)
    plain = plain.strip(". ").encode()[:120].decode(errors="ignore").rstrip(". ")
    if plain.partition(".")[0].rstrip().casefold() in _RESERVED:
        plain = f"_{plain}"
    return plain or "class"
