"""Which settings make a run the same run, so that it may be resumed, and in which of them two runs differ."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

# Settings of the data that may change when a run is resumed: where they lie, and what changes no result.
_FREE = ("root", "download", "eval_batch")


def identity(config: Mapping[str, Any], free: Collection[str] = ()) -> dict[str, Any]:
    """The part of a run's resolved settings that must stay the same when it is resumed.

    Args:
        config: Settings by section: ``model``, ``data``, ``trainer``, ``validation``, and ``seed_everything``.
        free: Settings of the model that may change, because they change no result but by rounding.
    """
    kept: dict[str, Any] = {"seed_everything": config.get("seed_everything")}
    for section, left_out in (("data", _FREE), ("model", (*free, "seed"))):
        if section in config:
            kept[section] = {name: value for name, value in config[section].items() if name not in left_out}
    if "validation" in config:
        kept["validation"] = config["validation"]
    if precision := config.get("trainer", {}).get("precision"):
        kept["trainer"] = {"precision": str(precision)}
    return kept


def difference(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "--") -> str:
    """Say in which settings two runs differ; empty if in none.

    A setting that only one of them has is no difference, for a newer version may have it first; but it is where an
    object was made with it (``init_args``).
    """
    if "class_path" in old and "class_path" in new and old["class_path"] != new["class_path"]:
        return f"{prefix}class_path was {old['class_path']}, now {new['class_path']}"
    found = []
    strict = prefix.endswith(".init_args.")
    for name in sorted(old.keys() | new.keys() if strict else old.keys() & new.keys()):
        a, b = old.get(name, "not given"), new.get(name, "not given")
        if isinstance(a, dict) and isinstance(b, dict):
            found += [part for part in [difference(a, b, f"{prefix}{name}.")] if part]
        elif a != b:
            found.append(f"{prefix}{name} was {a}, now {b}")
    return ", ".join(found)
