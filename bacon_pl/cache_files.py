"""The files of the cache: their names and kinds, and their removal.

This module imports neither torch nor safetensors, so that the cache can be shown and cleared quickly.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bacon_pl.errors import BaconError, one_line
from bacon_pl.runtime import cache_dir, lock

KEY = "bacon_pl"
"""Key of the entry that describes a file in its metadata."""

_IMAGES = re.compile(r"(.+)-[0-9a-f]{16}\.safetensors", re.DOTALL)
_KERNELS = re.compile(r"fused-[0-9a-f]{16}\.so")
_PICKS = re.compile(r"measured-[0-9a-f]{16}\.json")
_NETWORKS = "networks"
_FINGERPRINT = re.compile(r"[0-9a-f]{24}")
_NETWORK = re.compile(r"network(\d+)-epoch(\d+)\.safetensors")
_OF_NETWORKS = re.compile(rf"lock|about\.json|tested\.json|{_NETWORK.pattern}|network\d+\.unfinished|\..+\.part")
# What is being written: the cache's own files, those of safetensors, and those of `runtime.replacing`.
_PART = re.compile(r".+-[0-9a-f]{16}.{8}\.tmp|tmp.{8}|\.tmp\w{6}|\..+\.part", re.DOTALL)
# Names that file systems and desktops create in any folder.
_OF_THE_SYSTEM = frozenset(("lost+found",))
_LONGEST_HEADER = 1 << 20
_LONGEST_NAME = 40  # file names are limited to 255 bytes, and a character may take four
# Writing takes seconds, so a temporary file of this age was left by a killed process.
_ABANDONED_SECONDS = 3600


@dataclass(frozen=True)
class Entry:
    """One file of the cache, or one folder of networks.

    Attributes:
        path: Path of the file.
        kind: ``images`` (decoded image files), ``whitening`` (its matrices), ``kernels`` (compiled for this machine),
            ``measured`` (what is fastest on a GPU), ``networks`` (trained on real images) or ``part`` (a file that is
            being written, or whose writer was killed).
        name: Name of the source.
        source: Folder of the source; None if it is unknown or there is none.
        size: Size in bytes.
        time: Time of writing in seconds since the epoch.
        about: Description of networks or a whitening; empty for other kinds.
        files: Number of files.
        in_use: Whether a run is training networks in the folder.
    """

    path: Path
    kind: str
    name: str
    source: str | None
    size: int
    time: float
    about: str = ""
    files: int = 1
    in_use: bool = False


def images_path(name: str, digest: str) -> Path:
    """Return the path of the file with a dataset's decoded images, or with a whitening's matrices.

    Args:
        name: Name of the dataset or whitening, which makes the cache folder readable for people.
        digest: Hash of the source, 16 hexadecimal digits.
    """
    return cache_dir() / f"{name[:_LONGEST_NAME]}-{digest}.safetensors"


def kernels_path(digest: str) -> Path:
    """Return the path of the library of compiled kernels.

    Args:
        digest: Hash of source, compiler and machine, 16 hexadecimal digits.
    """
    return cache_dir() / f"fused-{digest}.so"


def picks_path(facts: Mapping[str, Any]) -> Path:
    """Return the path of the file that says what was picked by measuring.

    Args:
        facts: All that it depends on, as JSON values.
    """
    digest = hashlib.blake2b(json.dumps(dict(facts), sort_keys=True).encode(), digest_size=8).hexdigest()
    return cache_dir() / f"measured-{digest}.json"


def networks_folder() -> Path:
    """Return the folder with networks trained on real images, which has a folder for every fingerprint."""
    return cache_dir() / _NETWORKS


def folders_of_networks() -> list[Path]:
    """Return the folders of networks trained on real images, one per fingerprint, by name.

    Raises:
        BaconError: The folder of these folders cannot be read.
    """
    try:
        found = [path for path in networks_folder().iterdir() if path.is_dir() and _FINGERPRINT.fullmatch(path.name)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BaconError(f"cannot read '{networks_folder()}' ({error.strerror}): set BACON_CACHE.") from error
    return sorted(found)


def files_of_networks(folder: Path) -> dict[Path, tuple[int, int]]:
    """Return the files of finished networks in a folder, in order, each with its number and its epochs."""
    found = ((path, _NETWORK.fullmatch(path.name)) for path in sorted(folder.iterdir()))
    return {path: (int(match[1]), int(match[2])) for path, match in found if match}


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
                    if item.name == _NETWORKS and item.is_dir(follow_symlinks=False):
                        found_networks, foreign = _networks(Path(item.path))
                        own += found_networks
                        others += foreign
                        continue
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
    """Remove the files of the cache, except those that are being written and networks that a run is training.

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
            if entry.kind == "networks":
                if not _removed(entry.path):
                    continue
            elif entry.path.is_dir():
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
    with contextlib.suppress(OSError):  # it is not there, or not empty
        networks_folder().rmdir()
    return removed


def _networks(folder: Path) -> tuple[list[Entry], list[str]]:
    """Describe the folders of networks, and name what else lies beside them or in them."""
    own: list[Entry] = []
    others: list[str] = []
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name in _OF_THE_SYSTEM:
            continue
        ours = path.is_dir() and not path.is_symlink() and _FINGERPRINT.fullmatch(path.name)
        names = [item.name for item in path.iterdir()] if ours else []
        if not ours or not all(_OF_NETWORKS.fullmatch(name) for name in names):
            others.append(f"{_NETWORKS}/{path.name}")
            continue
        name, about = _about(path, names)
        size, time_ = sum(_sizes(path)), path.stat().st_mtime
        own.append(Entry(path, "networks", name, None, size, time_, about, len(names), in_use(path)))
    return own, others


def _about(folder: Path, names: list[str]) -> tuple[str, str]:
    """Return the name of the dataset that networks were trained on, and what they are."""
    numbers = {found[1] for name in names if (found := _NETWORK.fullmatch(name))}
    count = f"{len(numbers)} network{'s' * (len(numbers) != 1)}"
    try:
        facts = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        recipe = facts["recipe"]
        network = recipe["network"]
        kind = str(network["class_path"]).rpartition(".")[2]
        width = (network.get("init_args") or {}).get("width")
        described = kind if width is None else f"{kind} of width {width}"
        length = f"{recipe['epochs']} epoch{'s' * (recipe['epochs'] != 1)}"
        return str(facts["dataset"]), f"{count}, {described}, {length}, seed {facts['seed']}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return folder.name[:8], count  # it has not been written yet, or is damaged


def in_use(folder: Path) -> bool:
    """Whether another process holds the lock of a folder of networks."""
    try:
        with open(folder / "lock", "rb") as file:
            return not lock(file)
    except OSError:
        return False


def _removed(folder: Path) -> bool:
    """Remove a folder of networks, unless a run is training some in it; returns whether it was removed."""
    path = folder / "lock"
    with contextlib.ExitStack() as stack:
        if path.exists() and not lock(stack.enter_context(open(path, "rb"))):
            return False
        for other in folder.iterdir():
            if other != path:
                other.unlink()
        if os.name == "posix":  # elsewhere an open file cannot be removed
            path.unlink(missing_ok=True)
    if os.name != "posix":
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # another run has begun to train networks in it
        folder.rmdir()
    return True


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
    if _PICKS.fullmatch(item.name):
        device, picked = _picked(path)
        return Entry(path, "measured", device, None, state.st_size, state.st_mtime, picked)
    if _PART.fullmatch(item.name):
        return Entry(path, "part", item.name, None, state.st_size, state.st_mtime)
    if not (images := _IMAGES.fullmatch(item.name)):
        return None
    try:
        facts = _facts(path)
    except ValueError:  # truncated; the next run will overwrite it
        facts = {"fingerprint": ""}
    if "fingerprint" not in facts:  # other tensors, such as a distilled set
        return None
    info = facts.get("info")
    if isinstance(info, dict) and isinstance(about := info.get("whitening"), str):
        return Entry(path, "whitening", images[1], None, state.st_size, state.st_mtime, about)
    source = facts.get("of")
    return Entry(path, "images", images[1], source if isinstance(source, str) else None, state.st_size, state.st_mtime)


def _picked(path: Path) -> tuple[str, str]:
    """Return the device of which something was measured, and what was picked."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        return str(held["of"]["device"]), f"{held['of']['architecture']}: {held['why']}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return path.stem, ""  # the next run will overwrite it


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
