"""What is not about the method: how memory is reused, where caches and output go, how files are written whole."""

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
"""Environment variable: number of the process without which this one has no reason to go on."""

_PR_SET_PDEATHSIG = 1
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MIB = 1 << 20


def _set_thresholds(mmap: int, trim: int, give_back: bool) -> None:
    """Set glibc's thresholds in bytes; does nothing where the C library is another."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_THRESHOLD, mmap)
        libc.mallopt(_M_TRIM_THRESHOLD, trim)
        if give_back:
            libc.malloc_trim(0)


def keep_memory() -> None:
    """Let the C library keep freed tensors for the next iteration instead of handing their pages back.

    glibc maps every block above 32 MiB afresh, and the kernel zeroes its pages on first touch: at the sizes of
    activations that is up to half of a training step on a CPU. Does nothing where the C library is not glibc.
    """
    _set_thresholds(mmap=1024 * _MIB, trim=2047 * _MIB, give_back=False)


@contextlib.contextmanager
def default_memory() -> Iterator[None]:
    """Run a block as the C library would by itself, where :func:`keep_memory` has been called; for comparisons."""
    # What glibc's thresholds grow to in a process that frees large blocks.
    _set_thresholds(mmap=32 * _MIB, trim=64 * _MIB, give_back=True)
    try:
        yield
    finally:
        keep_memory()


def standard_streams() -> None:
    """Give the process standard streams where it has none, and let them print whatever a name may hold.

    Without them the first files opened would get their numbers, and what child processes print would end up in them.
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
    """Have this process told to stop (SIGTERM) when the one that ``$BACON_PARENT`` names ends, however it ends.

    Does nothing where the variable is not set or the system is not Linux.
    """
    if not (parent := os.environ.pop(PARENT, None)):  # out of sight of processes that this one starts
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if str(os.getppid()) != parent and sys.platform == "linux":  # it has ended already
            os.kill(os.getpid(), signal.SIGTERM)


def lock(file: IO[Any]) -> bool:
    """Lock an open file against other processes until it is closed here and in all that inherited it.

    Returns:
        False if another process holds it; True where there are no locks, too.
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
def held(folder: Path) -> Iterator[bool]:
    """Hold a folder for this process while a block runs; the folder is made if it is not there.

    The lock's file goes when the block ends, and so do folders that were made for it and are still empty: a command
    that is refused leaves nothing behind.

    Args:
        folder: The folder.

    Yields:
        False if another process holds it.

    Raises:
        OSError: The folder cannot be made or written.
    """
    made = [part for part in (folder, *folder.parents) if not part.exists()]
    path = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(path, "a") as file:
            # A process that ended a moment ago may have removed the file that was opened here.
            taken = lock(file) and path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())
            try:
                yield taken
            finally:
                if taken:
                    with contextlib.suppress(OSError):
                        path.unlink()
    finally:
        with contextlib.suppress(OSError):  # the first one that is not empty
            for part in made:
                part.rmdir()


@contextlib.contextmanager
def undone(folder: Path, keep: Callable[[], bool]) -> Iterator[None]:
    """Take away what a block has put into a folder, and the folder if it is empty then, where the block fails early.

    Args:
        folder: The folder; it need not be there.
        keep: Tells whether the block had come so far that what it wrote is worth something.
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
    """Folder of the cache: ``$BACON_CACHE``, else ``$XDG_CACHE_HOME/bacon_pl``, else ``~/.cache/bacon_pl``."""
    if own := os.environ.get("BACON_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "bacon_pl"


def memory_bytes() -> int:
    """Main memory of this machine in bytes; where the system does not tell, what no machine has."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 1 << 50


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of ``path`` once all of it has reached the disk.

    No reader, and no crash, ever sees half a file; what was there before stays if anything goes wrong.
    """
    # Not tempfile, whose files only their owner may read.
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
