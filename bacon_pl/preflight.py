"""Checks before a run reads any data, so that it does not fail at the end for a reason known at the start."""

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
_FEW_PROCESSES = 8  # number of processes that is always allowed, even on a CPU with fewer cores
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def check_writable(folder: str | os.PathLike[str], option: str) -> None:
    """Check that a file of 1 MiB can be written to a folder, which is created if it does not exist.

    Args:
        folder: Output folder of a run.
        option: Option that names the folder, for the message.

    Raises:
        BaconError: The folder cannot be created or written, or the disk is full.
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
    """Check that a run on CPUs does not start far more processes than there are cores, and in a way that they can.

    Lightning checks the number of GPUs, but accepts any number of processes on a CPU.

    Args:
        trainer: The Trainer of the run.

    Raises:
        BaconError: There would be too many processes, or they would have to be sent what cannot be sent.
    """
    if getattr(trainer.strategy, "_start_method", "") == "spawn":
        raise BaconError(
            "--trainer.strategy ddp_spawn would send the objects of the run to its processes, which those of a command "
            "do not allow: use ddp, whose processes make them anew."
        )
    most = max(os.cpu_count() or 1, _FEW_PROCESSES)
    if isinstance(trainer.accelerator, CPUAccelerator) and trainer.num_devices > most:
        raise BaconError(
            f"--trainer.devices {trainer.num_devices} would start as many processes on {os.cpu_count()} CPU cores: "
            f"give at most {most}, or auto."
        )


def disk_sentence(error: OSError) -> str:
    """Describe an error while reading or writing a file during a run, and what to do about it."""
    what = f"'{error.filename}'" if error.filename else "a file or the terminal"
    if error.errno in _FULL:
        return f"cannot write {what} ({error.strerror}): make room, or give another --trainer.default_root_dir."
    return f"cannot read or write {what} ({error.strerror or error}): check that it is there and open to you."
