"""The settings that must stay the same when a run is resumed, and the differences between two runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from bacon_pl.learners import TESTING

# Settings that earlier versions did not have, or that are not recorded where they are as here.
_BEFORE: dict[str, Any] = {
    "upscaling": "bilinear",
    "test_resize": None,
    "precision": "32-true",
    "networks": "as the recipe says",
    **dict.fromkeys(TESTING),
}

# Lightning's short names of precisions.
_PRECISIONS = {"16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true", "64": "64-true"}

# Settings of the data that may change when a run is resumed, because they do not affect the results.
_FREE = ("root", "download", "eval_batch")


def identity(config: Mapping[str, Any], free: Collection[str] = ()) -> dict[str, Any]:
    """Select the settings of a run that must stay the same when it is resumed.

    Args:
        config: Resolved settings by section: ``model``, ``data``, ``trainer``, ``validation``, and ``seed_everything``.
        free: Settings of the model that may change, because they change results only by rounding.

    Returns:
        The selected settings.
    """
    # The name of the method changes nothing but what the results say.
    kept: dict[str, Any] = {"seed_everything": config.get("seed_everything")}
    for section, left_out in (("data", _FREE), ("model", (*free, "seed", "method"))):
        if section in config:
            kept[section] = {name: value for name, value in config[section].items() if name not in left_out}
    if "validation" in config:
        kept["validation"] = config["validation"]
    if precision := config.get("trainer", {}).get("precision"):
        kept["trainer"] = {"precision": str(precision)}
    return kept


def difference(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "--") -> str:
    """Describe the settings in which two runs differ.

    A setting that only one of the runs has does not count as a difference, since a newer version may have introduced
    it, unless it is an argument of an object (``init_args``), or it is known what the older version did.

    Args:
        old: Settings of the first run.
        new: Settings of the second run.
        prefix: Prefix of the names of the settings in the description.

    Returns:
        The description; empty if the runs do not differ.
    """
    if "class_path" in old and "class_path" in new and old["class_path"] != new["class_path"]:
        return f"{prefix}class_path was {old['class_path']}, now {new['class_path']}"
    found = []
    strict = prefix.endswith(".init_args.")
    known = _BEFORE.keys() & (old.keys() | new.keys())
    for name in sorted(old.keys() | new.keys() if strict else (old.keys() & new.keys()) | known):
        a, b = (run.get(name, _BEFORE.get(name, "not given")) for run in (old, new))
        if name == "precision":
            a, b = (_PRECISIONS.get(str(value), str(value)) for value in (a, b))
        if isinstance(a, dict) and isinstance(b, dict):
            found += [part for part in [difference(a, b, f"{prefix}{name}.")] if part]
        elif a != b:
            found.append(f"{prefix}{name} was {a}, now {b}")
    return ", ".join(found)
