"""What can be told before any data are read, so that no run fails at its end for what was wrong at its start."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.accelerators import CPUAccelerator

from bacon_pl.errors import BaconError

_ROOM = 1 << 20
_FEW_PROCESSES = 8  # so many may be tried out on a CPU of fewer cores
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def check_writable(folder: str | os.PathLike[str], option: str) -> None:
    """Check that a folder takes a file of a MiB; the folder is made if it is not there.

    Args:
        folder: Where a run will write.
        option: The option that names it.

    Raises:
        BaconError: It cannot be made or written, or there is no room.
    """
    probe = Path(folder) / f".{secrets.token_hex(4)}.probe"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(probe, "xb") as file:
                file.write(bytes(_ROOM))
        finally:
            with contextlib.suppress(OSError):
                probe.unlink(missing_ok=True)
    except OSError as error:
        what = "make room there" if error.errno in _FULL else "make it a folder you can write to"
        raise BaconError(
            f"cannot write into the folder '{folder}' ({error.strerror}): {what}, or give another one as {option}."
        ) from error


def check_devices(trainer: pl.Trainer) -> None:
    """Check that a run on CPUs does not start far more processes than there are cores to run them.

    Lightning itself refuses more GPUs than there are, but on a CPU takes any number and starts as many processes.

    Raises:
        BaconError: It does.
    """
    most = max(os.cpu_count() or 1, _FEW_PROCESSES)
    if isinstance(trainer.accelerator, CPUAccelerator) and trainer.num_devices > most:
        raise BaconError(
            f"--trainer.devices {trainer.num_devices} would start as many processes on {os.cpu_count()} CPU cores: "
            f"give at most {most}, or auto."
        )


def disk_sentence(error: OSError) -> str:
    """Say what to do about a file that could not be read or written in the middle of a run."""
    what = f"'{error.filename}'" if error.filename else "a file or the terminal"
    if error.errno in _FULL:
        return f"cannot write {what} ({error.strerror}): make room, or give another --trainer.default_root_dir."
    return f"cannot read or write {what} ({error.strerror or error}): check that it is there and open to you."
