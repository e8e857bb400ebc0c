"""Safe reading of files written by torch.save and pickle (see :mod:`bacon_pl.interop.safe_unpickler`).

Tensors are read on demand, and a file cannot produce more data than it contains.
"""

from __future__ import annotations

import io
import mmap
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor

from bacon_pl.errors import BaconError
from bacon_pl.interop.safe_calls import STORAGES, Name, RefusedError, Storage, Stored
from bacon_pl.interop.safe_unpickler import File, SafeUnpickler

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

# Exceptions that the interpreter, pickletools and zipfile raise for damaged pickles or archives.
_DAMAGE = (
    ValueError,
    LookupError,
    TypeError,
    ArithmeticError,
    EOFError,
    OSError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
    RuntimeError,
)


def _storage_of(identity: Sequence[Any]) -> tuple[Storage, str]:
    """Convert a persistent id to a storage and its key."""
    kind, name, key, _, numel, *_ = identity
    if kind != "storage" or not isinstance(name, Name) or not isinstance(key, str) or type(numel) is not int:
        raise RefusedError("a persistent id of another kind")
    if name.full not in STORAGES or numel < 0:
        raise ValueError("a storage of an unknown type")
    return Storage(STORAGES[name.full], numel), key


def _no_storage(identity: Sequence[Any]) -> NoReturn:
    raise RefusedError("a persistent id")


def _read_programs(file: File, allowance: list[int], nested: bool = False) -> Any:
    """Read a plain pickle, or a file of torch.save in the old format without an archive."""

    def load_bytes(data: bytes) -> Any:
        return _read_programs(io.BytesIO(data), allowance, nested=True)

    def run(storage: Callable[[Sequence[Any]], Storage] = _no_storage) -> Any:
        return SafeUnpickler(file, storage, allowance, None if nested else load_bytes).run()

    first = run()
    if type(first) is not int or first != _LEGACY_MAGIC:
        return first
    storages: dict[str, Storage] = {}

    def find(identity: Sequence[Any]) -> Storage:
        storage, key = _storage_of(identity)
        if len(identity) > 5 and identity[5] is not None:
            raise ValueError("a view of a storage, as before torch 0.4")
        known = storages.setdefault(key, storage)
        if (known.dtype, known.numel) != (storage.dtype, storage.numel):
            raise ValueError("one storage of two types")
        return known

    run()  # the format's version
    system = run()
    _check_byte_order(system["little_endian"])
    content = run(find)
    keys = run()
    position = file.tell()
    for key in keys:
        storage = storages[key]
        file.seek(position)
        (numel,) = struct.unpack("<q", file.read(8))
        # For untyped storages, the pickle counts bytes.
        if numel not in (storage.numel, storage.nbytes):
            raise ValueError("a storage of another size than its tensor's")
        storage.read = _reader(file, position + 8, storage.nbytes)
        position += 8 + storage.nbytes
    return content


def _reader(file: File, position: int, size: int) -> Callable[[], bytes]:
    def read() -> bytes:
        file.seek(position)
        return file.read(size)

    return read


def _check_byte_order(little: Any) -> None:
    if little is not (sys.byteorder == "little"):
        raise ValueError("numbers in the byte order of another machine")


def _read_archive(archive: zipfile.ZipFile, allowance: list[int]) -> Any:
    """Read a file of torch.save in the current format: an archive with a pickle and its numbers."""
    entries = {entry.filename: entry for entry in archive.infolist()}
    programs = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(programs) != 1:
        raise ValueError("an archive of another kind")
    root = programs[0].removesuffix("data.pkl")

    def content(name: str) -> bytes:
        entry = entries[root + name]
        if entry.compress_type != zipfile.ZIP_STORED:  # torch writes no compressed entries, which could expand
            raise ValueError("a compressed entry")
        return archive.read(entry)

    if root + "byteorder" in entries:
        _check_byte_order((content("byteorder") == b"little") is (sys.byteorder == "little"))
    cache: dict[str, bytes] = {}

    def find(identity: Sequence[Any]) -> Storage:
        storage, key = _storage_of(identity)
        name = f"data/{key}"
        if entries[root + name].file_size != storage.nbytes:
            raise ValueError("a storage of another size than its tensor's")

        def read() -> bytes:
            if name not in cache:
                # Entries may overlap, but together they must not yield more than the file contains.
                allowance[0] -= storage.nbytes
                if allowance[0] < 0:
                    raise ValueError("its content would outgrow the file")
                cache[name] = content(name)
            return cache[name]

        storage.read = read
        return storage

    return SafeUnpickler(io.BytesIO(content("data.pkl")), find, allowance).run()


class Pickle:
    """A pickle or a file of torch.save that is open for reading; as a context manager, it closes the file.

    Args:
        path: The file.

    Attributes:
        content: Content of the file: lists, tuples, dicts, plain values, and a :class:`Stored` for each tensor or
            array.

    Raises:
        BaconError: The file is damaged, is of another kind, or requests operations beyond reading data.
    """

    content: Any

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open = ExitStack()
        try:
            file = self._open.enter_context(path.open("rb"))
            # Twice the size: old protocols write bytes as text, and torch nests its files within bytes.
            allowance = [2 * path.stat().st_size]
            if zipfile.is_zipfile(file):
                self.content = _read_archive(self._open.enter_context(zipfile.ZipFile(file)), allowance)
            else:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                self.content = _read_programs(self._open.enter_context(mapped), allowance)
        except RefusedError as refused:
            self._open.close()
            raise BaconError(
                f"'{path}' is a pickle that asks for {ascii(str(refused))[1:-1][:120]}, which a set of images does not "
                "need: nothing of it was run; ask for the set as .npz or as tensors alone."
            ) from refused
        except _DAMAGE as error:
            self._open.close()
            raise self._damaged(error) from error

    def __enter__(self) -> Pickle:
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def read(self, stored: Stored) -> Tensor:
        """Read a tensor.

        Args:
            stored: A tensor or array from :attr:`content`.

        Returns:
            The tensor.

        Raises:
            BaconError: The file is damaged.
        """
        try:
            return stored.tensor()
        except _DAMAGE as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> BaconError:
        reason = ascii(str(error))[1:-1][:120] or type(error).__name__
        return BaconError(
            f"'{self.path}' cannot be read as a file of torch.save or pickle (damaged, cut short or of another kind: "
            f"{reason}); fetch or make it again."
        )
