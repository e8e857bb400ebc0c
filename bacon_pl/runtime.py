"""Utilities for processes and files: reuse of memory, locks, the cache folder, and atomic writing of files."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import secrets
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

PARENT = "BACON_PARENT"
"""Environment variable with the id of the parent process; this process stops when the parent ends."""

_PR_SET_PDEATHSIG = 1
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MIB = 1 << 20


def _set_thresholds(mmap: int, trim: int, give_back: bool) -> None:
    """Set glibc's thresholds in bytes; do nothing with other C libraries."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_THRESHOLD, mmap)
        libc.mallopt(_M_TRIM_THRESHOLD, trim)
        if give_back:
            libc.malloc_trim(0)


def keep_memory() -> None:
    """Make the C library keep the memory of freed tensors for the next iteration instead of returning it to the kernel.

    By default glibc maps every block above 32 MiB anew, and the kernel zeroes its pages at the first access. For
    activations, this takes up to half of a training step on a CPU. This function has no effect with other C libraries.
    """
    _set_thresholds(mmap=1024 * _MIB, trim=2047 * _MIB, give_back=False)


@contextlib.contextmanager
def default_memory() -> Iterator[None]:
    """Run a block with the default behavior of the C library after :func:`keep_memory` was called, for comparisons."""
    # The values to which glibc's thresholds grow in a process that frees large blocks.
    _set_thresholds(mmap=32 * _MIB, trim=64 * _MIB, give_back=True)
    try:
        yield
    finally:
        keep_memory()


def standard_streams() -> None:
    """Open missing standard streams, and make stdout escape characters that it cannot encode.

    Without standard streams, the first opened files would get their descriptors, and the output of child processes
    would be written to these files.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def end_with_parent() -> None:
    """Make the kernel send SIGTERM to this process when the process named by ``$BACON_PARENT`` ends in any way.

    This has no effect if the variable is not set or the system is not Linux.
    """
    if not (parent := os.environ.pop(PARENT, None)):  # removed, so that child processes do not inherit it
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if str(os.getppid()) != parent and sys.platform == "linux":  # the parent has already ended
            os.kill(os.getpid(), signal.SIGTERM)


def lock(file: IO[Any]) -> bool:
    """Lock an open file against other processes until it is closed in this process and all that inherited it.

    Returns:
        False if another process holds the lock; True otherwise, also on systems without locks.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


@contextlib.contextmanager
def held_file(path: Path) -> Iterator[bool]:
    """Lock a file for this process during a block; it is made for that, and removed at the end of the block.

    Args:
        path: The file, in a folder that exists.

    Yields:
        Whether the lock was acquired; False if another process holds it.

    Raises:
        OSError: The file cannot be written.
    """
    with open(path, "a") as file:
        taken = lock(file)
        try:  # a process that has just ended may have removed the file after it was opened here
            taken = taken and os.path.samestat(os.fstat(file.fileno()), path.stat())
        except FileNotFoundError:
            taken = False
        try:
            yield taken
        finally:
            if taken:
                with contextlib.suppress(OSError):
                    path.unlink()


@contextlib.contextmanager
def held(folder: Path) -> Iterator[bool]:
    """Lock a folder for this process during a block; the folder is created if it does not exist.

    The lock file is removed at the end of the block, and so are folders that were created for it and are still empty,
    so that a rejected command leaves no files.

    Args:
        folder: The folder.

    Yields:
        Whether the lock was acquired; False if another process holds it.

    Raises:
        OSError: The folder cannot be created or written.
    """
    made = [part for part in (folder, *folder.parents) if not part.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with held_file(folder / ".lock") as taken:
            yield taken
    finally:
        with contextlib.suppress(OSError):  # stops at the first folder that is not empty
            for part in made:
                part.rmdir()


@contextlib.contextmanager
def undone(folder: Path, keep: Callable[[], bool]) -> Iterator[None]:
    """If a block fails early, remove the entries that it created in a folder, and the folder if it is then empty.

    Args:
        folder: The folder; it need not exist.
        keep: Function that returns whether the block had made enough progress for its files to be kept.
    """
    before = set(folder.glob("*"))
    try:
        yield
    except BaseException:
        if not keep():
            for new in set(folder.glob("*")) - before:
                shutil.rmtree(new, ignore_errors=True)
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def cache_dir() -> Path:
    """Return the cache folder: ``$BACON_CACHE``, else ``$XDG_CACHE_HOME/bacon_pl``, else ``~/.cache/bacon_pl``."""
    if own := os.environ.get("BACON_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "bacon_pl"


def memory_bytes() -> int:
    """Return the main memory of this machine in bytes, or a huge number if it is unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 1 << 50


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that replaces ``path`` when it is completely written to disk.

    Readers never see an incomplete file, not even after a crash. If an error occurs, the existing file stays.
    """
    # Not by tempfile, whose files are readable only by their owner.
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(part, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise
