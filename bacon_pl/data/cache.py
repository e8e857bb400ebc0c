"""Decoded images kept on disk between starts. A cache that cannot be read or written costs time, never the run."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bacon_pl.cache_files import KEY, images_path

# Raised whenever what is stored under the same key would change.
_VERSION = 2

Built = tuple[dict[str, Tensor], dict[str, Any]]

_noted: ContextVar[list[Path] | None] = ContextVar("_noted", default=None)


@contextlib.contextmanager
def noting() -> Iterator[list[Path]]:
    """Note which files of the cache a block reads or writes.

    Yields:
        Their paths, which are there when the block has ended.
    """
    files: list[Path] = []
    token = _noted.set(files)
    try:
        yield files
    finally:
        _noted.reset(token)


def _note(path: Path) -> None:
    if (noted := _noted.get()) is not None:
        noted.append(path)


def cached(name: str, place: str, fingerprint: str, build: Callable[[], Built], of: str = "") -> Built:
    """Read a result from the cache, or build it and store it.

    There is one file per place: a folder whose files have changed overwrites its old entry.

    Args:
        name: Start of the file's name, for people who look into the folder.
        place: What the result is of (resolved path and options); its hash ends the file's name.
        fingerprint: State of the sources; an entry with another one is rebuilt.
        build: Makes ``(tensors, info)``: contiguous CPU tensors by name, and facts that JSON can hold.
        of: The folder of the sources, which ``bacon cache`` shows.

    Returns:
        What ``build`` returned, now or at an earlier start.
    """
    digest = hashlib.blake2b(place.encode(errors="surrogateescape"), digest_size=8).hexdigest()
    path = images_path(name, digest)
    try:
        if (found := _read(path, fingerprint)) is not None:
            return found
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        warnings.warn(f"the cache file '{path}' cannot be used ({error}); decoding the images again.", stacklevel=2)
    tensors, info = build()
    try:
        _write(path, fingerprint, tensors, info, of)
    except (OSError, SafetensorError) as error:
        warnings.warn(
            f"cannot write the cache file '{path}' ({error}): the next start decodes the images again; set BACON_CACHE "
            "to a folder that can be written.",
            stacklevel=2,
        )
    return tensors, info


def _checksum(tensors: dict[str, Tensor]) -> int:
    total = 0
    for name in sorted(tensors):
        total = zlib.crc32(tensors[name].numpy().data, total)
    return total


def _read(path: Path, fingerprint: str) -> Built | None:
    if not path.exists():
        return None
    with safe_open(path, framework="pt") as file:
        facts = json.loads((file.metadata() or {})[KEY])
        if facts["version"] != _VERSION or facts["fingerprint"] != fingerprint:
            return None
        names = file.keys()  # the file is no mapping: it cannot be iterated over itself
        tensors = {name: file.get_tensor(name) for name in names}
    if _checksum(tensors) != facts["checksum"]:
        raise ValueError("its checksum does not match")
    _note(path)
    return tensors, facts["info"]


def _write(path: Path, fingerprint: str, tensors: dict[str, Tensor], info: dict[str, Any], of: str) -> None:
    facts = {"version": _VERSION, "fingerprint": fingerprint, "of": of, "checksum": _checksum(tensors), "info": info}
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
    os.close(handle)
    try:
        save_file(tensors, temporary, metadata={KEY: json.dumps(facts)})
        os.replace(temporary, path)  # atomic: no reader ever sees half a file
        _note(path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
