"""Which settings make a run the same run, so that it may be resumed, and in which of them two runs differ."""

from __future__ import annotations

from typing import Any

# Settings that may change when a run is resumed: where data lie, and what changes no result but by rounding.
_FREE = {
    "data": ("root", "download", "eval_batch"),
    "model": ("real_chunk", "memory_gib", "acceleration", "bound"),
}


def identity(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a run's resolved settings that must stay the same when it is resumed."""
    kept = {
        section: {name: value for name, value in config[section].items() if name not in free}
        for section, free in _FREE.items()
        if section in config
    }
    return {**kept, "seed_everything": config.get("seed_everything")}


def difference(old: dict[str, Any], new: dict[str, Any], prefix: str = "--") -> str:
    """Say in which settings two runs differ; empty if in none, or if one of them was not recorded."""
    found = []
    for name in sorted(old.keys() & new.keys()):
        a, b = old[name], new[name]
        if isinstance(a, dict) and isinstance(b, dict):
            found += [part for part in [difference(a, b, f"{prefix}{name}.")] if part]
        elif a != b:
            found.append(f"{prefix}{name} was {a}, now {b}")
    return ", ".join(found)
