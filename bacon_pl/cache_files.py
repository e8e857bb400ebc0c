"""The files of the cache: their names and kinds, and their removal.

This module imports neither torch nor safetensors, so that the cache can be shown and cleared quickly.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bacon_pl.errors import BaconError, one_line
from bacon_pl.runtime import cache_dir

KEY = "bacon_pl"
"""Key of the entry that describes a file in its metadata."""

_IMAGES = re.compile(r"(.+)-[0-9a-f]{16}\.safetensors", re.DOTALL)
_KERNELS = re.compile(r"fused-[0-9a-f]{16}\.so")
_PART = re.compile(r".+-[0-9a-f]{16}.{8}\.tmp|tmp.{8}", re.DOTALL)
# Names that file systems and desktops create in any folder.
_OF_THE_SYSTEM = frozenset(("lost+found",))
_LONGEST_HEADER = 1 << 20
_LONGEST_NAME = 40  # file names are limited to 255 bytes, and a character may take four
# Writing takes seconds, so a temporary file of this age was left by a killed process.
_ABANDONED_SECONDS = 3600


@dataclass(frozen=True)
class Entry:
    """One file of the cache.

    Attributes:
        path: Path of the file.
        kind: ``images`` (decoded image files), ``kernels`` (compiled for this machine) or ``part`` (a file that is
            being written, or whose writer was killed).
        name: Name of the source.
        source: Folder of the source; None if it is unknown or there is none.
        size: Size in bytes.
        time: Time of writing in seconds since the epoch.
    """

    path: Path
    kind: str
    name: str
    source: str | None
    size: int
    time: float


def images_path(name: str, digest: str) -> Path:
    """Return the path of the file with a dataset's decoded images.

    Args:
        name: Name of the dataset, which makes the cache folder readable for people.
        digest: Hash of the source, 16 hexadecimal digits.
    """
    return cache_dir() / f"{name[:_LONGEST_NAME]}-{digest}.safetensors"


def kernels_path(digest: str) -> Path:
    """Return the path of the library of compiled kernels.

    Args:
        digest: Hash of source, compiler and machine, 16 hexadecimal digits.
    """
    return cache_dir() / f"fused-{digest}.so"


def entries() -> tuple[list[Entry], list[str]]:
    """List the content of the cache folder.

    Returns:
        ``(own, others)``: the files of the cache, largest first, and the names of other entries in its folder.

    Raises:
        BaconError: The folder cannot be read.
    """
    folder = cache_dir()
    own: list[Entry] = []
    others: list[str] = []
    try:
        with os.scandir(folder) as found:
            for item in found:
                try:
                    entry = _entry(item)
                except FileNotFoundError:  # replaced or removed by another process in the meantime
                    continue
                if entry is not None:
                    own.append(entry)
                elif not item.name.startswith(".") and item.name not in _OF_THE_SYSTEM:
                    others.append(item.name)
    except FileNotFoundError:
        return [], []
    except OSError as error:
        raise BaconError(
            f"cannot read the cache '{folder}' ({error.strerror}): set BACON_CACHE to a folder that you can read."
        ) from error
    return sorted(own, key=lambda entry: (-entry.size, entry.path.name)), sorted(others)


def clear(older_than_days: float = 0.0) -> list[Entry]:
    """Remove the files of the cache, except those that are being written.

    Running processes are not affected: they keep what they have read, and rebuild missing files.

    Args:
        older_than_days: Remove only files that were written more than this number of days ago.

    Returns:
        The removed files.

    Raises:
        BaconError: The folder contains other files, so that it may not be a cache; or a file cannot be removed.
    """
    own, others = entries()
    if others:
        raise BaconError(
            f"the folder '{cache_dir()}' holds {len(others)} file{'s' * (len(others) > 1)} or folders that are not the "
            f"cache's, such as '{one_line(others[0], 80)}', so nothing was removed: set BACON_CACHE to the cache's own "
            "folder, or remove its files by hand."
        )
    removed: list[Entry] = []
    for entry in own:
        age = max(_ABANDONED_SECONDS if entry.kind == "part" else 0.0, 86_400 * older_than_days)
        try:
            if entry.path.stat().st_mtime > time.time() - age and age:  # read again, as the file may have been replaced
                continue
            if entry.path.is_dir():
                shutil.rmtree(entry.path)
            else:
                entry.path.unlink()
        except FileNotFoundError:  # another process was faster
            continue
        except OSError as error:
            raise BaconError(
                f"cannot remove '{entry.path}' ({error.strerror}): make the folder one you can write to; "
                f"{len(removed)} files were removed before."
            ) from error
        removed.append(entry)
    return removed


def _entry(item: os.DirEntry[str]) -> Entry | None:
    """Describe a file in the folder; return None if it does not belong to the cache."""
    state = item.stat(follow_symlinks=False)
    path = Path(item.path)
    if stat.S_ISDIR(state.st_mode):
        inside = os.listdir(path) if _PART.fullmatch(item.name) else [""]
        if not all(_KERNELS.fullmatch(name) for name in inside):
            return None
        size = sum(_sizes(path))
        return Entry(path, "part", item.name, None, size, state.st_mtime)
    if not stat.S_ISREG(state.st_mode):
        return None
    if _KERNELS.fullmatch(item.name):
        return Entry(path, "kernels", "fused", None, state.st_size, state.st_mtime)
    if item.name.endswith(".tmp") and _PART.fullmatch(item.name):
        return Entry(path, "part", item.name, None, state.st_size, state.st_mtime)
    if not (images := _IMAGES.fullmatch(item.name)):
        return None
    try:
        facts = _facts(path)
    except ValueError:  # truncated; the next run will overwrite it
        facts = {"fingerprint": ""}
    if "fingerprint" not in facts:  # other tensors, such as a distilled set
        return None
    source = facts.get("of")
    return Entry(path, "images", images[1], source if isinstance(source, str) else None, state.st_size, state.st_mtime)


def _sizes(folder: Path) -> Iterator[int]:
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            yield path.stat().st_size


def _facts(path: Path) -> dict[str, Any]:
    """Read the metadata of a safetensors file from its header.

    Raises:
        ValueError: The file is not a complete safetensors file.
    """
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if 0 < length <= _LONGEST_HEADER else None
    except RecursionError as error:
        raise ValueError(error) from None
    if not isinstance(header, dict):
        raise ValueError("no header")
    metadata = header.get("__metadata__")
    said = metadata.get(KEY) if isinstance(metadata, dict) else None
    facts = json.loads(said) if isinstance(said, str) else {}
    return facts if isinstance(facts, dict) else {}
