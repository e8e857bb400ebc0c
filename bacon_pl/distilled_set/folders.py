"""Class names, which may come from anywhere, as names of folders."""

from __future__ import annotations

import unicodedata

# Names that Windows keeps for devices, whatever their extension.
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(10))}


def folder_names(class_names: tuple[str, ...]) -> list[str]:
    """Turn class names into folder names that sort in label order.

    Args:
        class_names: Any strings, in label order.

    Returns:
        One plain path component per class, all different even where case is ignored, in ascending order.
    """
    names = [_safe_component(name) for name in class_names]
    folded = {name.casefold() for name in names}
    if len(folded) == len(names) and names == sorted(names):
        return names
    digits = len(str(len(names) - 1))
    return [f"{index:0{digits}d}_{name}" for index, name in enumerate(names)]


def _safe_component(name: str) -> str:
    """Make one path component of a string: never empty, hidden, reserved, a step upwards, or over 120 bytes."""
    # Compatibility forms first: they turn some harmless-looking characters into slashes and dots.
    plain = unicodedata.normalize("NFKC", name)
    plain = "".join(c if c.isalnum() or c in "-_. " else "_" for c in plain)
    plain = plain.strip(". ").encode()[:120].decode(errors="ignore").rstrip(". ")
    if plain.partition(".")[0].rstrip().casefold() in _RESERVED:
        plain = f"_{plain}"
    return plain or "class"
