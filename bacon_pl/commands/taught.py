"""The networks trained on real images that there are: listed, and checked."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from bacon_pl.cache_files import files_of_networks, folders_of_networks, in_use, networks_folder
from bacon_pl.errors import BaconError, one_line
from bacon_pl.learners import network_files
from bacon_pl.learners.tested import TESTED, read_tested
from bacon_pl.learners.trained import MADE

_HEADER = ("fingerprint", "dataset", "network", "epochs", "seed", "networks", "test accuracy", "size", "state")


def listing() -> list[str]:
    """Describe the networks that are kept, one line for those of a fingerprint."""
    rows = [_row(folder) for folder in folders_of_networks()]
    if not rows:
        return [f"no networks trained on real images are kept in {networks_folder()}"]
    table = [_HEADER, *sorted(rows, key=lambda row: (row[1], row[2], row[0]))]
    widths = [max(len(row[column]) for row in table) for column in range(len(_HEADER))]
    lines = ["  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return [f"networks trained on real images: {networks_folder()}", *lines]


def check() -> Iterator[str]:
    """Read every file of every network whole, and describe the networks of each fingerprint.

    Raises:
        BaconError: Files are damaged; after all have been read.
    """
    damaged: list[str] = []
    number = 0
    for folder in folders_of_networks():
        wrong = [] if in_use(folder) and not _about(folder) else _wrong_description(folder)
        for path, (network, epochs) in files_of_networks(folder).items():
            number += 1
            facts = {"fingerprint": folder.name, "network": network, "epochs": epochs}
            try:
                network_files.read(path, facts)
            except network_files.DamagedError as error:
                wrong.append(f"{path.name}: {one_line(error, 200)}")
        damaged += [f"{folder.name}/{said}" for said in wrong]
        yield f"{folder.name}  {'whole' if not wrong else 'damaged'}"
        yield from (f"  {said}" for said in wrong)
    if damaged:
        raise BaconError(
            f"{len(damaged)} of the files in '{networks_folder()}' are damaged, such as {damaged[0]}: networks are "
            "trained again when they are needed next, or by bacon teach."
        )
    yield f"{number} file{'s' * (number != 1)}, all of them whole"


def _row(folder: Path) -> tuple[str, ...]:
    about = _about(folder)
    found = files_of_networks(folder)
    numbers = {number for number, _ in found.values()}
    size = 0
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            size += path.stat().st_size
    if in_use(folder):
        state = "being trained"
    elif list(folder.glob("*.unfinished")) or not found:
        state = "unfinished"
    else:
        state = "whole"
    recipe = about.get("recipe")
    recipe = recipe if isinstance(recipe, Mapping) else {}
    return (
        folder.name,
        one_line(about.get("dataset", "unknown"), 40),
        _network(recipe.get("network")),
        one_line(recipe.get("epochs", "?"), 10),
        one_line(about.get("seed", "?"), 10),
        str(len(numbers)),
        _accuracy(folder),
        decimal(size),
        state,
    )


def _network(described: Any) -> str:
    if not isinstance(described, Mapping):
        return one_line(described if isinstance(described, str) else "unknown", 40)
    kind = str(described.get("class_path", "unknown")).rpartition(".")[2]
    arguments = described.get("init_args")
    width = arguments.get("width") if isinstance(arguments, Mapping) else None
    return one_line(kind if width is None else f"{kind} of width {width}", 40)


def _accuracy(folder: Path) -> str:
    """The test accuracies after the last epoch at which there are some."""
    found: dict[str, list[float]] = {}
    for name, said in read_tested(folder / TESTED).items():
        if isinstance(said, Mapping) and isinstance(value := said.get("test_accuracy"), float):
            found.setdefault(name.rpartition("-")[2], []).append(value)
    if not found:
        return "not measured"
    values = found[max(found)]
    low, high = (f"{value:.1f}" for value in (min(values), max(values)))
    return f"{low} %" if low == high else f"{low} to {high} %"


def _about(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _wrong_description(folder: Path) -> list[str]:
    """Compare what the description says with the name of the folder, which is its digest."""
    about = _about(folder)
    described = {name: value for name, value in about.items() if name not in MADE}
    text = json.dumps(described, sort_keys=True)
    digest = hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=12).hexdigest()
    return [] if digest == folder.name else ["about.json: it describes other networks, or nothing"]
