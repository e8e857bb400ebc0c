"""A disk cache of decoded images. A run continues, only more slowly, if the cache cannot be read or written."""

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

# Incremented whenever the content stored under a given key changes.
_VERSION = 2

Built = tuple[dict[str, Tensor], dict[str, Any]]

_noted: ContextVar[list[Path] | None] = ContextVar("_noted", default=None)


@contextlib.contextmanager
def noting() -> Iterator[list[Path]]:
    """Record which cache files are read or written inside a ``with`` block.

    Yields:
        A list of their paths, which is complete when the block ends.
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


def cached(
    name: str, place: str, fingerprint: str, build: Callable[[], Built], of: str = "", task: str = "decode the images"
) -> Built:
    """Read a result from the cache, or build it and store it.

    There is one file per place: when the files of a folder change, the new entry overwrites the old one.

    Args:
        name: First part of the file name, which makes the cache folder readable for people.
        place: Identifies the sources (resolved path and options); its hash is the last part of the file name.
        fingerprint: State of the sources; an entry with a different fingerprint is rebuilt.
        build: Function that returns ``(tensors, info)``: contiguous CPU tensors by name, and values that JSON can hold.
        of: Folder of the sources, as shown by ``bacon cache``.
        task: What ``build`` does, for warnings.

    Returns:
        The result of ``build``, from this run or an earlier one.
    """
    path = _path(name, place)
    try:
        if (found := _read(path, fingerprint)) is not None:
            return found
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        warnings.warn(
            f"the cache file '{path}' cannot be used ({error}): this start has to {task} again.", stacklevel=2
        )
    tensors, info = build()
    try:
        _write(path, fingerprint, tensors, info, of)
    except (OSError, SafetensorError) as error:
        warnings.warn(
            f"cannot write the cache file '{path}' ({error}): the next start has to {task} again; set BACON_CACHE to a "
            "folder that can be written.",
            stacklevel=2,
        )
    return tensors, info


def read_cached(name: str, place: str, fingerprint: str) -> dict[str, Tensor] | None:
    """Read the tensors of a result that :func:`cached` has stored; None if there are none, or they are damaged."""
    try:
        found = _read(_path(name, place), fingerprint)
    except (OSError, SafetensorError, ValueError, KeyError):
        return None
    return None if found is None else found[0]


def _path(name: str, place: str) -> Path:
    return images_path(name, hashlib.blake2b(place.encode(errors="surrogateescape"), digest_size=8).hexdigest())


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
        names = file.keys()  # the file object itself cannot be iterated over
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
        os.chmod(temporary, 0o644)  # a cache may be shared, and temporary files are their owner's alone
        os.replace(temporary, path)  # atomic: no reader ever sees half a file
        _note(path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
